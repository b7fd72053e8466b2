//! The operators' commands and a server that is not there, does not answer, hangs up, or shows a certificate that
//! nobody trusts: each says what is wrong, soon, and asks once.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use socket2::{Domain, Socket, Type};

use crate::support::{run, run_with};

/// Far below the two minutes after which the system gives a connection up by itself, and far above the two seconds that
/// are promised, for a machine that does ten other things.
const SOON: Duration = Duration::from_secs(20);

/// Every command that speaks to a running server and needs nothing else for it, at `url`.
fn commands(url: &str) -> [Vec<&str>; 3] {
    [
        vec!["promote", "a", "--url", url],
        vec!["demote", "a", "--url", url],
        vec!["reconcile", "--fix", "--url", url],
    ]
}

/// Runs each command at `url`; each must fail with exit code 1, soon. What each of them said.
fn all_fail(url: &str) -> [String; 3] {
    commands(url).map(|command| {
        let began = Instant::now();
        let (code, text) = run(&command);
        assert!(began.elapsed() < SOON, "{command:?} took {:?}: {text}", began.elapsed());
        assert_eq!(code, 1, "{command:?}: {text}");
        text
    })
}

#[test]
fn a_port_where_nobody_listens_is_told_at_once() {
    // Bound, so that no other test gets the port, and not listening.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    for scheme in ["http", "https"] {
        let url = format!("{scheme}://{address}");
        for said in all_fail(&url) {
            assert!(said.contains(&format!("can't connect to {url}")), "{said}");
            assert!(said.contains("Connection refused"), "{said}");
        }
    }
}

#[test]
fn a_server_that_accepts_no_connection_is_given_up() {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    // Until the queue of the socket is full: from then on the kernel drops who knocks.
    let mut queued = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
        queued.push(stream);
    }
    for scheme in ["http", "https"] {
        let url = format!("{scheme}://{address}");
        for said in all_fail(&url) {
            assert!(said.contains(&format!("can't connect to {url}")), "{said}");
            assert!(said.contains("no connection within 1.5 s"), "{said}");
        }
    }
}

/// TCP connects, for the kernel accepts; TLS never gets an answer.
#[test]
fn a_server_that_says_nothing_to_tls_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    for said in all_fail(&url) {
        assert!(said.contains(&format!("can't connect to {url}: ")), "{said}");
        assert!(said.contains("no connection within 1.5 s"), "{said}");
    }
}

/// A server of the test's own. It ends with the test's process.
struct FakeServer {
    address: SocketAddr,
    /// Requests that came in whole.
    requests: Arc<AtomicUsize>,
}

/// How the server goes on after a request: it answers (status, body), or hangs up.
type Script = Vec<Option<(&'static str, &'static str)>>;

impl FakeServer {
    /// Goes by the script, whichever connections the requests come over; behind its end it stays with its last step.
    fn start(script: Script, tls: Option<ServerConfig>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::<AtomicUsize>::default();
        let (counted, tls) = (Arc::clone(&requests), tls.map(Arc::new));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                match &tls {
                    None => drop(converse(stream, &script, &counted)),
                    Some(tls) => {
                        let session = ServerConnection::new(Arc::clone(tls)).unwrap();
                        drop(converse(StreamOwned::new(session, stream), &script, &counted));
                    }
                }
            }
        });
        Self { address, requests }
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

fn converse(stream: impl Read + Write, script: &Script, requests: &AtomicUsize) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line)? == 0 {
                return Ok(());
            }
            match line.trim_end().split_once(": ") {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                    length = value.parse().unwrap();
                }
                None if line == "\r\n" => break,
                _ => {}
            }
        }
        stream.read_exact(&mut vec![0; length])?;
        let came = requests.fetch_add(1, Ordering::Relaxed);
        let Some((status, body)) = script[came.min(script.len() - 1)] else { return Ok(()) };
        let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.get_mut().write_all(format!("{head}{body}").as_bytes())?;
        stream.get_mut().flush()?;
    }
}

const PROMOTED: &str =
    r#"{"results":[{"sku_id":"a","status":200,"body":{"hot":true,"replayed":false,"shard":0}}]}"#;

/// A request that may have arrived is never sent again: neither the first over a connection, nor one over a connection
/// that was kept.
#[test]
fn a_request_whose_connection_died_is_not_repeated() {
    let server = FakeServer::start(vec![None], None);
    let url = format!("http://{}", server.address);
    for (before, said) in all_fail(&url).into_iter().enumerate() {
        assert!(said.contains(&format!("{url} did not answer POST")), "{said}");
        assert!(said.contains("is unknown"), "{said}");
        assert!(server.requests() > before);
    }
    assert_eq!(server.requests(), 3, "one for each command");

    let page = r#"{"skus":1,"differences":[],"repaired":[],"unsettled":[],"next_cursor":"a"}"#;
    let server = FakeServer::start(vec![Some(("200 OK", page)), None], None);
    let url = format!("http://{}", server.address);
    let (code, said) = run(&["reconcile", "--url", &url]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("is unknown"), "{said}");
    assert_eq!(server.requests(), 2, "each page was asked for once: {said}");
}

/// Who is told that the server is busy asks again when it likes; the command does not do it behind its back.
#[test]
fn a_refusal_is_told_and_not_repeated() {
    let busy = r#"{"code":"overloaded","detail":"too many requests"}"#;
    let server = FakeServer::start(vec![Some(("503 Service Unavailable", busy)); 9], None);
    for said in all_fail(&format!("http://{}", server.address)) {
        assert!(said.contains("503 overloaded: too many requests"), "{said}");
    }
    assert_eq!(server.requests(), 3, "one for each command");
}

/// The settings of a TLS server, and its certificate in a file as an operator would keep it.
fn self_signed(file: &Path) -> ServerConfig {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(file, cert.pem()).unwrap();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap()
}

#[test]
fn https_needs_a_certificate_that_the_system_trusts() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("certificate.pem");
    let server = FakeServer::start(vec![Some(("200 OK", PROMOTED))], Some(self_signed(&file)));
    let url = format!("https://{}", server.address);
    for said in all_fail(&url) {
        assert!(said.contains(&format!("can't connect to {url}: ")), "{said}");
        assert!(said.contains("certificate") && said.contains("UnknownIssuer"), "{said}");
    }
    assert_eq!(server.requests(), 0, "nothing is sent to a server that nobody vouches for");

    let trusting = [("SSL_CERT_FILE", file.to_str().unwrap())];
    let (code, said) = run_with(&["promote", "a", "--url", &url], &trusting);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("a: hot, in shard 0"), "{said}");
    assert_eq!(server.requests(), 1);
}
