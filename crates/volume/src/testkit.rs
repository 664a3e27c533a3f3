//! Bodies of known measure as objectives, and wrappers that count, disturb or replace the cost.
pub mod quadratic_form;
