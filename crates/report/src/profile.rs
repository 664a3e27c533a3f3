//! How the cost along a ray looks.

use std::path::Path;

use basin_volume_engine::error::Error;
use basin_volume_engine::numbers::nats;
use basin_volume_engine::profile::Profile;

use crate::plot::profile::Series;
use crate::plot::{self, RayProfile};
use crate::table::{or_unknown, plain_table};

/// A line about the ray, and a table of its points.
#[must_use]
pub fn profile_text(profile: &Profile) -> String {
    let mut previous_below = true;
    let rows = profile.points.iter().map(|point| {
        let below = point.cost.is_some_and(|cost| cost < profile.cutoff);
        let mark = match (previous_below, below) {
            (true, false) => "crosses the cutoff",
            (false, true) => "back under the cutoff",
            _ => "",
        };
        previous_below = below;
        vec![
            format!("{:.6}", point.t),
            format!("{:.6}", point.distance),
            point.cost.map_or("not finite".to_owned(), |cost| format!("{cost:.6e}")),
            or_unknown(profile.radius, |radius| format!("{:.3}", point.t / radius)),
            mark.to_owned(),
        ]
    });
    let table = plain_table(&["t", "distance", "cost (nats)", "t / radius", ""], &[0, 1, 2, 3], rows);
    format!(
        "Ray {}: radius {}, ||v|| {:.6}, log-volume {} nats, {}\n{table}",
        profile.index,
        profile.radius.map_or("infinite".to_owned(), |radius| format!("{radius:.9}")),
        profile.norm,
        nats(profile.log_volume),
        profile.outcome,
    )
}

/// Draws the cost along the ray of this model into a folder.
///
/// # Errors
/// When it cannot be drawn or written.
pub fn draw_profile(profile: &Profile, model: &str, folder: &Path) -> Result<(), Error> {
    let is_sphere = profile.is_sphere;
    let figure = RayProfile {
        title: format!("Cost along ray {} ({}): {model}", profile.index, profile.preconditioner.label()),
        distance_label: if is_sphere { "angle from the center  (radians)" } else { "distance from the center, ||w \u{2212} c||" }
            .to_owned(),
        cutoff: profile.cutoff,
        series: vec![Series {
            label: Some(format!("ray {}", profile.index)),
            color: 0,
            points: profile.points.iter().filter_map(|p| Some((p.distance, p.cost?))).collect(),
            radius: profile.radius.map(|r| if is_sphere { r } else { r * profile.norm }),
        }],
    };
    plot::save(&figure, folder, "profile")?;
    Ok(())
}
