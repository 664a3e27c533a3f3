//! What a preconditioner means: the map and its provenance.

use std::path::Path;
use std::sync::Arc;

use basin_volume::preconditioner::{Diagonal, Identity, Preconditioner};
use basin_volume::prior::Prior;
use basin_volume::question::Question;
use basin_volume::spec::{PreconditionerSpec, Proposal};
use basin_volume_models::curvature::{self, Provenance, kinds};
use serde_json::json;

use crate::curvature::{Recipe, cached, recipe, recipe_names};
use crate::error::{Context, Error};
use crate::request::Ask;
use crate::session::Session;
use crate::subject::Subject;

mod form;
mod map;
mod plain;

use map::Maps;

/// After a preconditioner of a scan: its Gaussian is shifted to the mean of the tilted prior, as `proposal=shifted` does for all.
pub const SHIFTED: &str = ":shifted";

/// A map with its record.
#[derive(Clone)]
pub struct Preconditioning {
    /// The map.
    pub map: Arc<dyn Preconditioner>,
    /// Where it comes from.
    pub spec: PreconditionerSpec,
    /// How a curvature was computed.
    pub provenance: Option<Provenance>,
    /// Bytes of the curvature.
    bytes: u64,
}

/// Whose directions are wanted, and for what.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    /// Whose.
    pub subject: &'a dyn Subject,
    /// What was asked.
    pub ask: &'a Ask,
    /// The same, checked.
    pub question: Question,
    /// Where the Gaussian of the directions lies.
    pub proposal: Proposal,
    /// With what they are made.
    pub session: &'a Session,
}

/// The recipe of a curvature that has to be computed for a preconditioner.
#[must_use]
pub fn computed(choice: &str) -> Option<&'static dyn Recipe> {
    recipe(choice)
}

/// Stands for a curvature that is not computed yet where only the question matters.
#[must_use]
pub fn placeholder(choice: &str, ask: &Ask) -> PreconditionerSpec {
    let hash = json!({ "damping": ask.damping, "exponent": ask.exponent, "eps": ask.eps }).to_string();
    PreconditionerSpec::Factors { source: choice.to_owned(), hash }
}

/// Refuses settings that say how curvatures become maps where no preconditioner is made of one.
///
/// # Errors
/// [`Error::Usage`].
pub fn check_maps<C: AsRef<str>>(ask: &Ask, choices: &[C]) -> Result<(), Error> {
    let has_map = |choice: &C| choice.as_ref() != "none" && computed(choice.as_ref()).is_none_or(|recipe| !recipe.is_for_question());
    let settings = ask.map_settings();
    let Some(setting) = settings.first().filter(|_| !choices.iter().any(has_map)) else { return Ok(()) };
    Err(Error::usage(format!(
        "`{setting}` says how a curvature becomes a preconditioner, but {} is used: leave it out, or choose another `preconditioner`",
        choices.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(", ")
    )))
}

/// Refuses a shifted proposal that cannot be, before a curvature is computed for it.
///
/// # Errors
/// [`Error::Usage`].
pub fn check_proposal(choice: &str, wanted: &Wanted<'_>) -> Result<(), Error> {
    if wanted.proposal.is_centered() {
        return Ok(());
    }
    if wanted.question.sigma().is_none() {
        return Err(Error::usage(
            "`proposal=shifted` is for `prior=gaussian`, whose mass lies towards the origin: use `proposal=centered` under another prior",
        ));
    }
    match computed(choice) {
        Some(recipe) if recipe.is_for_question() => Err(only_a_shape(choice)),
        Some(_) if wanted.ask.exponent.is_some() || wanted.ask.eps.is_some() => Err(only_a_shape(choice)),
        _ => Ok(()),
    }
}

fn only_a_shape(name: &str) -> Error {
    Error::usage(format!(
        "`proposal=shifted` needs a covariance in absolute units, and the preconditioner {name} has only a shape: use a curvature with `damping=auto`, or `proposal=centered`"
    ))
}

/// Bytes of preconditioners, with what this proposal under this prior keeps beside.
#[must_use]
pub fn proposal_bytes(question: Question, proposal: Proposal, preconditioners: u64, dimension: usize) -> u64 {
    // Great circles need the preimage of the center, shifted proposals that of their mean.
    let has_preimage = (matches!(question.prior(), Prior::Sphere) && preconditioners > 0) || proposal == Proposal::Shifted;
    preconditioners + if has_preimage { 4 * dimension as u64 } else { 0 }
}

impl Preconditioning {
    /// Refuses a proposal that this map has no moments for.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub fn check(&self, wanted: &Wanted<'_>) -> Result<(), Error> {
        let name = self.spec.label();
        let is_centered = wanted.proposal.is_centered();
        if !is_centered && !self.map.is_identity() && self.map.root_scale().is_none() {
            return Err(only_a_shape(name));
        }
        if is_centered && wanted.ask.proposal.is_none() && self.map.mean().is_some() {
            return Err(Error::usage(format!(
                "{name} is a Gaussian with a mean: add `proposal=shifted` to use it, or `proposal=centered` to use its shape alone"
            )));
        }
        Ok(())
    }

    /// Resolves one preconditioner by its name. A curvature that has to be computed is kept in `folder`.
    ///
    /// # Errors
    /// When there is none of this name, it cannot be computed or read, or the settings do not fit it.
    pub fn resolve(choice: &str, wanted: &Wanted<'_>, folder: Option<&Path>) -> Result<Self, Error> {
        let subject = wanted.subject;
        let maps = Maps::new(wanted)?;
        if let Some(recipe) = computed(choice) {
            if !recipe.is_for_question() {
                maps.check_curvature(recipe.kind())?;
            }
            let (curvature, provenance) = cached(recipe, subject, wanted.question, wanted.session, folder)?;
            return form::preconditioning(choice, curvature, provenance, subject, &maps);
        }
        match choice {
            "none" => Ok(Self::new(Identity, PreconditionerSpec::None)),
            "adam1" | "adam2" => {
                let moments = subject.moments(wanted.session)?.ok_or_else(|| {
                    Error::failed(format!(
                        "the checkpoint {} holds no Adam moments (optimizer.safetensors, optimizer.pt or states of DeepSpeed): `preconditioner={choice}` needs them",
                        subject.moments_place()
                    ))
                })?;
                Self::diagonal(choice, &if choice == "adam1" { moments.first } else { moments.second }, &maps)
            }
            path if Path::new(path).is_file() => {
                let path = Path::new(path);
                match curvature::read_provenance(path)? {
                    None => return plain::read(path, subject, &maps),
                    Some(provenance) if provenance.kind == kinds::LEARNED => {}
                    Some(provenance) => maps.check_curvature(&provenance.kind)?,
                }
                let (curvature, provenance) = curvature::read(path, &subject.layout(), &subject.center_hash())?;
                let source = path.file_name().map_or_else(|| "file".to_owned(), |name| name.to_string_lossy().into_owned());
                form::preconditioning(&source, curvature, provenance, subject, &maps)
            }
            other => Err(Error::usage(match other.strip_suffix(SHIFTED) {
                Some(name) => {
                    format!("`preconditioner={other}` is how `scan` says it: here write `preconditioner={name}` and `proposal=shifted`")
                }
                None => format!(
                    "there is no preconditioner '{other}': expected none, adam1, adam2, {} or a .safetensors file",
                    recipe_names().join(", ")
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

    /// Bytes of the map for this number of weights, scratch of every ray included.
    #[must_use]
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

    fn diagonal(source: &str, curvature: &[f32], maps: &Maps<'_>) -> Result<Self, Error> {
        let unusable = || format!("the preconditioner {source} cannot be used");
        let map = maps.plain_diagonal(source, curvature)?;
        let diagonal = Diagonal::from_curvature(curvature, map).context(unusable)?;
        let hash = sha256(curvature.iter().flat_map(|x| x.to_le_bytes()));
        Ok(Self::new(diagonal, PreconditionerSpec::Diagonal { source: source.to_owned(), curvature: None, hash, map }))
    }
}

impl std::fmt::Debug for Preconditioning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Preconditioning").field("spec", &self.spec).finish_non_exhaustive()
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
