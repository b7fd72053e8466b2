//! hotstock-loom-tests
