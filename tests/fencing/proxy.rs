//! A line to the store that can be cut: TCP, passed on byte by byte.

use std::io::copy;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// See the module. Its thread ends with the test's process.
pub struct Proxy {
    pub port: u16,
    /// `None`: it is cut.
    lines: Arc<Mutex<Option<Vec<TcpStream>>>>,
}

impl Proxy {
    pub fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Self {
            port: listener.local_addr().unwrap().port(),
            lines: Arc::new(Mutex::new(Some(Vec::new()))),
        };
        let lines = Arc::clone(&proxy.lines);
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let Ok(far) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                let mut open = lines.lock().unwrap();
                // While it is cut, whoever comes is turned away.
                let Some(open) = open.as_mut() else { continue };
                open.extend([near.try_clone().unwrap(), far.try_clone().unwrap()]);
                pass_on(near.try_clone().unwrap(), far.try_clone().unwrap());
                pass_on(far, near);
            }
        });
        proxy
    }

    /// Every connection ends, and no new one is made.
    pub fn cut(&self) {
        for line in self.lines.lock().unwrap().take().into_iter().flatten() {
            let _ = line.shutdown(Shutdown::Both);
        }
    }

    pub fn mend(&self) {
        *self.lines.lock().unwrap() = Some(Vec::new());
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream) {
    std::thread::spawn(move || {
        let _ = copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    });
}
