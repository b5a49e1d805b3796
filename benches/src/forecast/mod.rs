//! Traces, rivals and scores together: the forecaster's own test takes them from here.

pub mod rivals;
pub mod score;
pub mod traces;
