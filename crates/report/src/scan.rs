//! How a scan looks: text, figures, a page.

mod figures;
mod page;
mod text;

pub use figures::draw;
pub use page::page;
pub use text::text;
