//! Steps at which a test ends the process: a crash there must harm nothing.

use std::sync::Arc;

/// Runs when a step is reached, with its name.
pub(crate) type Failpoint = Arc<dyn Fn(&'static str) + Send + Sync>;

/// What is to happen at the steps; usually nothing.
#[derive(Clone, Default)]
pub(crate) struct Failpoints(Option<Failpoint>);

impl Failpoints {
    pub fn new(failpoint: Option<Failpoint>) -> Self {
        Self(failpoint)
    }

    /// A step is reached.
    pub fn reach(&self, step: &'static str) {
        if let Some(failpoint) = &self.0 {
            failpoint(step);
        }
    }
}
