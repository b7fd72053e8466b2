//! hotstock-api
