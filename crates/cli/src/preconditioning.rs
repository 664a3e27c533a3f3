//! What `--preconditioner` means: the map and its provenance.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use basin_volume::preconditioner::{Diagonal, Identity, Preconditioner};
use basin_volume::prior::Prior;
use basin_volume::spec::{PreconditionerSpec, Proposal};
use basin_volume_models::curvature::{self, Provenance, kinds};
use clap::ValueEnum;

use crate::args::{CurvatureChoice, RayArgs};
use crate::curvature::{LearnedFor, Session};
use crate::error::CommandError;
use crate::problem::Problem;
use crate::target::part_of;

mod form;
mod map;
mod plain;

use map::Maps;

/// After a preconditioner of a scan: its Gaussian is shifted to the mean of the tilted prior, as `--proposal shifted` does for all.
pub const SHIFTED: &str = ":shifted";

/// A map with its record.
#[derive(Clone)]
pub struct Preconditioning {
    pub map: Arc<dyn Preconditioner>,
    pub spec: PreconditionerSpec,
    /// How a curvature was computed.
    pub provenance: Option<Provenance>,
    /// Bytes of what is kept, scratch of every ray included.
    pub bytes: u64,
}

/// The curvature that a value of `--preconditioner` asks to be computed.
pub fn computed(choice: &str) -> Option<CurvatureChoice> {
    CurvatureChoice::from_str(choice, false).ok()
}

/// Stands for a curvature that is not computed yet where only the question matters.
pub fn placeholder(choice: &str, rays: &RayArgs) -> PreconditionerSpec {
    let hash = format!("damping {:?}, exponent {:?}, eps {:?}", rays.damping, rays.exponent, rays.eps);
    PreconditionerSpec::Factors { source: choice.to_owned(), hash }
}

/// Refuses flags that say how curvatures become maps where no preconditioner is made of one.
pub fn check_maps(flags: &[&str], choices: &[String]) -> Result<(), CommandError> {
    let has_map = |choice: &String| choice != "none" && computed(choice) != Some(CurvatureChoice::Learned);
    let Some(flag) = flags.first().filter(|_| !choices.iter().any(has_map)) else { return Ok(()) };
    Err(CommandError::usage(format!(
        "{flag} says how a curvature becomes a preconditioner, but {} is used: leave it out, or choose another --preconditioner",
        choices.join(", ")
    )))
}

/// Refuses a shifted proposal that cannot be, before a curvature is computed for it.
pub fn check_proposal(choice: &str, problem: &Problem, rays: &RayArgs, proposal: Proposal) -> Result<(), CommandError> {
    if proposal.is_centered() {
        return Ok(());
    }
    if !matches!(problem.prior, Prior::Gaussian { .. }) {
        return Err(CommandError::usage(
            "--proposal shifted is for --prior gaussian, whose mass lies towards the origin: use --proposal centered under another prior",
        ));
    }
    match computed(choice) {
        Some(CurvatureChoice::Learned) => Err(only_a_shape(choice)),
        Some(_) if rays.exponent.is_some() || rays.eps.is_some() => Err(only_a_shape(choice)),
        _ => Ok(()),
    }
}

fn only_a_shape(name: &str) -> CommandError {
    CommandError::usage(format!(
        "--proposal shifted needs a covariance in absolute units, and the preconditioner {name} has only a shape: use a curvature with --damping auto, or --proposal centered"
    ))
}

impl Preconditioning {
    /// Refuses a proposal that this map has no moments for; `asked` is the proposal if one was named.
    pub fn check(&self, proposal: Proposal, is_named: bool) -> Result<(), CommandError> {
        let name = self.spec.label();
        if !proposal.is_centered() && !self.map.is_identity() && self.map.root_scale().is_none() {
            return Err(only_a_shape(name));
        }
        if proposal.is_centered() && !is_named && self.map.mean().is_some() {
            return Err(CommandError::usage(format!(
                "{name} is a Gaussian with a mean: add --proposal shifted to use it, or --proposal centered to use its shape alone"
            )));
        }
        Ok(())
    }

    /// Resolves one value of `--preconditioner`. A curvature that has to be computed is kept in `folder`.
    pub fn resolve(
        choice: &str,
        problem: &Problem,
        (rays, proposal): (&RayArgs, Proposal),
        session: &Session<'_>,
        folder: Option<&Path>,
    ) -> Result<Self, CommandError> {
        let (model, moving) = (&problem.model, &problem.moving);
        let maps = Maps::new(problem, rays, session, proposal)?;
        if let Some(kind) = computed(choice) {
            if kind != CurvatureChoice::Learned {
                maps.check_curvature(kind.kind())?;
            }
            let learned_for = LearnedFor { prior: problem.prior, cutoff: rays.cutoff, l2_reg: rays.l2_reg };
            let (curvature, provenance) = crate::curvature::cached(kind, problem, (rays.seed, learned_for), session, folder)?;
            return form::preconditioning(choice, curvature, provenance, moving, &maps);
        }
        match choice {
            "none" => Ok(Self::new(Identity, PreconditionerSpec::None)),
            "adam1" | "adam2" => {
                let moments = model.checkpoint.moments()?.ok_or_else(|| {
                    anyhow!(
                        "the checkpoint {} holds no Adam moments (optimizer.safetensors, optimizer.pt or states of DeepSpeed): --preconditioner {choice} needs them",
                        model.checkpoint.folder.display()
                    )
                })?;
                let curvature = if choice == "adam1" { moments.first } else { moments.second };
                Self::diagonal(choice, &part_of(moving, curvature), &maps)
            }
            path if Path::new(path).is_file() => {
                let path = Path::new(path);
                match curvature::read_provenance(path)? {
                    None => return plain::read(path, problem, &maps),
                    Some(provenance) if provenance.kind == kinds::LEARNED => {}
                    Some(provenance) => maps.check_curvature(&provenance.kind)?,
                }
                let hash = model.checkpoint.parameters.hash();
                let (curvature, provenance) = curvature::read(path, moving.layout(), &hash)?;
                let source = path.file_name().map_or_else(|| "file".to_owned(), |name| name.to_string_lossy().into_owned());
                form::preconditioning(&source, curvature, provenance, moving, &maps)
            }
            other => Err(CommandError::usage(match other.strip_suffix(SHIFTED) {
                Some(name) => {
                    format!("--preconditioner {other} is how `scan` says it: here write --preconditioner {name} --proposal shifted")
                }
                None => format!(
                    "there is no preconditioner '{other}': expected none, adam1, adam2, {} or a .safetensors file",
                    CurvatureChoice::names().join(", ")
                ),
            })),
        }
    }

    fn new(map: impl Preconditioner + 'static, spec: PreconditionerSpec) -> Self {
        Self::shared(Arc::new(map), spec)
    }

    fn shared(map: Arc<dyn Preconditioner>, spec: PreconditionerSpec) -> Self {
        Self { map, spec, provenance: None, bytes: 0 }
    }

    /// Bytes of the map for a network of this dimension.
    pub fn bytes(&self, dimension: usize) -> u64 {
        let dimension = dimension as u64;
        // Maps that mix coordinates keep every direction, and need its normals while it is made.
        let rays = 8 * dimension;
        match &self.spec {
            PreconditionerSpec::None => 0,
            PreconditionerSpec::Gaussian { mean, .. } => {
                let covariance = if self.map.support(0..1).len() > 1 { 16 * dimension * dimension + rays } else { 4 * dimension };
                covariance + if *mean { 4 * dimension } else { 0 }
            }
            PreconditionerSpec::Dense { .. } => 16 * dimension * dimension + rays,
            PreconditionerSpec::Kronecker { .. } | PreconditionerSpec::LowRank { .. } => self.bytes + rays,
            // One number per weight.
            _ => 4 * dimension,
        }
    }

    fn diagonal(source: &str, curvature: &[f32], maps: &Maps<'_>) -> Result<Self, CommandError> {
        let unusable = || format!("the preconditioner {source} cannot be used");
        let map = maps.plain_diagonal(source, curvature)?;
        let diagonal = Diagonal::from_curvature(curvature, map).with_context(unusable)?;
        let hash = sha256(curvature.iter().flat_map(|x| x.to_le_bytes()));
        Ok(Self::new(diagonal, PreconditionerSpec::Diagonal { source: source.to_owned(), curvature: None, hash, map }))
    }
}

/// SHA-256 of a stream of bytes, in hexadecimal.
fn sha256(bytes: impl Iterator<Item = u8>) -> String {
    use sha2::{Digest, Sha256};
    let mut hasher = Sha256::new();
    let mut buffer = Vec::with_capacity(1 << 16);
    for byte in bytes {
        buffer.push(byte);
        if buffer.len() == 1 << 16 {
            hasher.update(&buffer);
            buffer.clear();
        }
    }
    hasher.update(&buffer);
    basin_volume_data::hexadecimal(&hasher.finalize())
}
