//! Where a preconditioner comes from.

use serde::{Deserialize, Serialize};

use crate::preconditioner::{CurvatureMap, Damping};

/// Where a preconditioner comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum PreconditionerSpec {
    /// The identity.
    None,
    /// A diagonal from a vector with one entry per parameter.
    Diagonal {
        /// Name of the source: `adam1`, `adam2`, a kind of curvature or a file name.
        source: String,
        /// What the source holds, if it says: `fisher-diagonal`, `squared-gradient`, `hessian-diagonal`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        curvature: Option<String>,
        /// SHA-256 of the source vector.
        hash: String,
        /// How a source value becomes a factor.
        #[serde(flatten)]
        map: CurvatureMap,
    },
    /// A Gaussian of the displacement `w - c`, given by its moments.
    Gaussian {
        /// Name of the source file.
        source: String,
        /// SHA-256 of the moments.
        hash: String,
        /// How the covariance is given: `variance`, `covariance` or `precision`.
        covariance: String,
        /// Whether the source has a mean.
        mean: bool,
    },
    /// A diagonal of given factors, such as learned ones.
    Factors {
        /// Name of the source.
        source: String,
        /// SHA-256 of the source vector.
        hash: String,
    },
    /// A dense symmetric matrix.
    Dense {
        /// Name of the source file.
        source: String,
        /// SHA-256 of the source matrix.
        hash: String,
        /// How an eigenvalue becomes a factor.
        #[serde(flatten)]
        map: CurvatureMap,
    },
    /// Kronecker factors per matrix of weights, a diagonal for the other tensors.
    Kronecker {
        /// Name of the source.
        source: String,
        /// SHA-256 of the factors.
        hash: String,
        /// How an eigenvalue becomes a factor.
        #[serde(flatten)]
        map: CurvatureMap,
    },
    /// A few eigenvectors and a diagonal.
    LowRank {
        /// Name of the source.
        source: String,
        /// SHA-256 of vectors, eigenvalues and diagonal.
        hash: String,
        /// Number of vectors.
        rank: usize,
        /// The damping of the curvature.
        #[serde(flatten)]
        map: Damping,
    },
}

impl PreconditionerSpec {
    /// Short name for tables and figures.
    #[must_use]
    pub fn label(&self) -> &str {
        match self {
            Self::None => "none",
            Self::Diagonal { source, .. }
            | Self::Factors { source, .. }
            | Self::Gaussian { source, .. }
            | Self::Dense { source, .. }
            | Self::Kronecker { source, .. }
            | Self::LowRank { source, .. } => source,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preconditioner::DiagonalMap;

    #[test]
    fn every_preconditioner_comes_back() {
        let (source, hash) = ("file.safetensors".to_owned(), "cd".to_owned());
        let map = Damping { beta: 1.0 / 3.0, sigma: 0.1 };
        let (s, h) = (|| source.clone(), || hash.clone());
        for spec in [
            PreconditionerSpec::None,
            PreconditionerSpec::Diagonal { source: s(), curvature: Some("fisher-diagonal".to_owned()), hash: h(), map: map.into() },
            PreconditionerSpec::Factors { source: s(), hash: h() },
            PreconditionerSpec::Gaussian { source: s(), hash: h(), covariance: "precision".to_owned(), mean: true },
            PreconditionerSpec::Dense { source: s(), hash: h(), map: DiagonalMap::default().into() },
            PreconditionerSpec::Kronecker { source: s(), hash: h(), map: map.into() },
            PreconditionerSpec::LowRank { source: s(), hash: h(), rank: 3, map },
        ] {
            let text = serde_json::to_string(&spec).unwrap();
            assert_eq!(serde_json::from_str::<PreconditionerSpec>(&text).unwrap(), spec, "{text}");
        }
    }
}
