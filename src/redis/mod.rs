//! stub
pub mod cluster_views;
pub mod command_table;
pub mod configs;
pub mod info;
pub mod options;
