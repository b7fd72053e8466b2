//! hotstock-persistence
