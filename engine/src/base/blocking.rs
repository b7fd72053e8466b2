//! Work that blocks its thread: reads of the disk go to the runtime's blocking threads, the journal writer and the
//! checkpointer are loops with a thread each. In a simulation ([`crate::testing::simulate`]), which runs a whole server
//! on one thread and repeats it from a seed, all of it are tasks of the one runtime.

use tokio::task::JoinError;

/// Runs work that blocks beside the tasks of the runtime.
///
/// # Errors
/// It panicked.
pub(crate) async fn run<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    #[cfg(feature = "testing")]
    if simulation::is_on() {
        let task = async {
            simulation::pause("blocking").await;
            work()
        };
        return tokio::spawn(task).await;
    }
    tokio::task::spawn_blocking(work).await
}

/// What a thread does for as long as the engine runs.
pub(crate) trait Loop: Send + 'static {
    /// Sleeps until there is something to do. `false`: nothing more will come.
    fn wait(&mut self) -> bool;

    /// As [`Loop::wait`], without a thread to sleep on.
    #[cfg(feature = "testing")]
    fn poll_wait(&mut self, context: &mut std::task::Context<'_>) -> std::task::Poll<bool>;

    /// Does what there is to do.
    fn step(&mut self);
}

/// A running [`Loop`].
pub(crate) enum Worker {
    Thread(std::thread::JoinHandle<()>),
    #[cfg(feature = "testing")]
    Task(tokio::task::JoinHandle<()>),
}

impl Worker {
    /// # Errors
    /// There is no thread to be had.
    pub fn spawn(name: &'static str, mut body: impl Loop) -> std::io::Result<Self> {
        #[cfg(feature = "testing")]
        if simulation::is_on() {
            let task = async move {
                while std::future::poll_fn(|context| body.poll_wait(context)).await {
                    simulation::pause(name).await;
                    body.step();
                }
            };
            return Ok(Self::Task(tokio::spawn(task)));
        }
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
            while body.wait() {
                body.step();
            }
        });
        thread.map(Self::Thread)
    }

    /// Waits until it has ended. `false`: it panicked.
    pub async fn ended(self) -> bool {
        match self {
            Self::Thread(thread) => {
                matches!(tokio::task::spawn_blocking(move || thread.join()).await, Ok(Ok(())))
            }
            #[cfg(feature = "testing")]
            Self::Task(task) => task.await.is_ok(),
        }
    }
}

/// The switch of a simulation, and how long what blocks takes in it.
#[cfg(feature = "testing")]
pub(crate) mod simulation {
    use std::cell::RefCell;
    use std::rc::Rc;
    use std::time::Duration;

    /// A turn of a shard, whose thread may get no time for a while.
    pub const TURN: &str = "turn";

    /// How long a piece of work takes that would block: by its name, in simulated time.
    pub type Pauses = Rc<dyn Fn(&'static str) -> Duration>;

    thread_local! {
        static PAUSES: RefCell<Option<Pauses>> = const { RefCell::new(None) };
    }

    /// Ends the simulation on this thread when it is dropped.
    #[derive(Debug)]
    pub struct Simulated(());

    impl Drop for Simulated {
        fn drop(&mut self) {
            PAUSES.with(|pauses| pauses.borrow_mut().take());
        }
    }

    /// Makes engines that are started on this thread, in a runtime of one thread, run on it alone.
    #[must_use]
    pub fn simulate(pauses: Pauses) -> Simulated {
        PAUSES.with(|kept| *kept.borrow_mut() = Some(pauses));
        Simulated(())
    }

    pub fn is_on() -> bool {
        PAUSES.with(|pauses| pauses.borrow().is_some())
    }

    /// Waits for as long as this piece of work takes.
    pub async fn pause(what: &'static str) {
        let time =
            PAUSES.with(|pauses| pauses.borrow().clone()).map_or(Duration::ZERO, |pauses| pauses(what));
        if !time.is_zero() {
            tokio::time::sleep(time).await;
        }
    }
}
