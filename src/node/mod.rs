//! stub
pub mod address;
pub mod settings;
pub mod status;
