//! Checks of the source files of the workspace.

mod comment_width;
mod files;
mod import_graph;
mod links;
mod problem_types;
mod rust_source;
mod vocabulary;
