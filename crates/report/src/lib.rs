//! How results look: tables and words as text, figures as SVG and PNG, pages as HTML.
//!
//! Everything is made of what the engine read or computed; no model is needed. An estimator with a table and figures of its own has one file here and
//! one line in the list of presenters; others are shown by what every result has.

#![deny(missing_docs)]
#![deny(unsafe_code)]

mod annealed;
mod groups;
mod heading;
mod improvement;
mod llc;
mod page;
mod plot;
mod presenter;
mod profile;
mod prose;
mod rays;
mod run_page;
pub mod scan;
mod several;
mod spectral;
mod table;
mod training;

pub use groups::{Detail, draw, group_text, text};
pub use heading::problem_name;
pub use page::Page;
pub use profile::{draw_profile, profile_text};
pub use prose::{COLUMNS, wrapped};
pub use run_page::run_page;
pub use table::plain_table;
pub use training::{Curve, Training, draw_training};
