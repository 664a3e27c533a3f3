//! From a curvature in any of its forms to the map.

use std::sync::Arc;

use basin_volume::direction::{BLOCK, dot};
use basin_volume::preconditioner::{Diagonal, Kronecker, KroneckerCurvature, LowRankDiagonal};
use basin_volume::saddle_point::Mode;
use basin_volume::spec::PreconditionerSpec;
use basin_volume_models::curvature::{Curvature, Provenance};

use super::Preconditioning;
use super::map::{Built, Maps, Modes};
use crate::error::{Context, Error};
use crate::subject::Subject;

/// The map of a curvature of the moving weights. `source` is the name that was asked for.
pub(super) fn preconditioning(
    source: &str,
    curvature: Curvature,
    provenance: Provenance,
    subject: &dyn Subject,
    maps: &Maps<'_>,
) -> Result<Preconditioning, Error> {
    let unusable = || format!("the preconditioner {source} cannot be used");
    let (hash, bytes) = (curvature.hash(), curvature.bytes());
    let source = source.to_owned();
    let dimension = subject.dimension();
    let mut made = match curvature {
        Curvature::Diagonal { values } => {
            let center = maps.center();
            let modes = Modes { count: dimension, mode: |i: usize| Mode::single(values[i], center[i]) };
            let map = maps.curvature(modes, |damping| Ok(Arc::new(Diagonal::from_curvature(&values, damping)?)))?;
            let diagonal = Diagonal::from_curvature(&values, map).context(unusable)?;
            let curvature = Some(provenance.kind.clone());
            Preconditioning::new(diagonal, PreconditionerSpec::Diagonal { source: source.clone(), curvature, hash, map })
        }
        Curvature::Factors { values } => {
            let diagonal = Diagonal::from_factors(&values).context(unusable)?;
            Preconditioning::new(diagonal, PreconditionerSpec::Factors { source: source.clone(), hash })
        }
        Curvature::Kronecker { blocks, diagonal } => {
            let tensors = Curvature::kronecker_tensors(&subject.layout(), &blocks, &diagonal);
            let decomposed = KroneckerCurvature::new(tensors).context(unusable)?;
            let map = {
                let eigenvalues = decomposed.eigenvalues();
                let mut center = maps.center();
                decomposed.rotate(&mut center);
                let modes = Modes { count: dimension, mode: |i: usize| Mode::single(eigenvalues[i], center[i]) };
                maps.curvature(modes, |damping| Ok(Arc::new(Kronecker::new(decomposed.clone(), damping)?)))?
            };
            let kronecker = Kronecker::new(decomposed, map).context(unusable)?;
            Preconditioning::new(kronecker, PreconditionerSpec::Kronecker { source: source.clone(), hash, map })
        }
        Curvature::LowRankDiagonal { basis, eigenvalues, rest } => {
            let rank = eigenvalues.len();
            let diagonal = rest.view();
            // For beta alone the sum is taken apart: the modes of the low-rank part beside those of the diagonal. The traces add up, and
            // where the vectors stand out from the rest these are the eigenvalues.
            let center = maps.center();
            let blocks = |x: &[f32], y: &[f32]| x.chunks(BLOCK).zip(y.chunks(BLOCK)).map(|(x, y)| dot(x, y)).sum::<f64>();
            let leading: Vec<Mode> = basis
                .chunks_exact(dimension)
                .zip(&eigenvalues)
                .map(|(vector, &eigenvalue)| {
                    let squared = blocks(vector, vector);
                    let along = if squared > 0.0 { blocks(vector, &center).powi(2) / squared } else { 0.0 };
                    Mode { multiplicity: 1.0, curvature: f64::from(eigenvalue) * squared, center_squared: along }
                })
                .collect();
            let mode = |i: usize| leading.get(i).copied().unwrap_or_else(|| Mode::single(diagonal.at(i - rank), center[i - rank]));
            let build =
                |damping| -> Built { Ok(Arc::new(LowRankDiagonal::new(basis.clone(), &eigenvalues, diagonal, dimension, damping)?)) };
            let map = maps.damping_only("low-rank", Modes { count: rank + dimension, mode }, build)?;
            let low_rank = LowRankDiagonal::new(basis, &eigenvalues, diagonal, dimension, map).context(unusable)?;
            Preconditioning::new(low_rank, PreconditionerSpec::LowRank { source: source.clone(), hash, rank, map })
        }
    };
    made.bytes = bytes;
    made.provenance = Some(provenance);
    Ok(made)
}
