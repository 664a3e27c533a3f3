//! The table of a scan: one row a point, as CSV and Parquet.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use basin_volume::estimator::radial::{RadialResult, Sample};
use basin_volume::run::answer::{Answer, Trust};
use basin_volume::run::folder;
use basin_volume::run::manifest::Manifest;
use basin_volume::spec::EstimatorSpec;
use parquet::basic::{Compression, LogicalType, Repetition, Type as Physical};
use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::Type;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::points::Point;
use super::request::ScanKind;
use crate::error::{Context, Error};
use crate::estimators::Run;
use crate::estimators::radial::Rays;

/// One point of a scan with its answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Name of the model.
    pub target: String,
    /// What is measured.
    pub model: String,
    /// Name of the estimator.
    pub estimator: String,
    /// Where directions come from, for estimators that have them.
    pub preconditioner: Option<String>,
    /// What is varied; none where the run does not depend on it.
    pub value: Option<f64>,
    /// The common view.
    pub answer: Answer,
    /// Description length in bits per weight.
    pub bits_per_parameter: Option<f64>,
    /// Records that the answer is made of.
    pub samples: Option<u64>,
    /// Mean and standard deviation of the log-volumes of rays, nats.
    pub mean: Option<f64>,
    /// See `mean`.
    pub sd: Option<f64>,
    /// `(sum w)^2 / sum w^2` of the weights of rays.
    pub effective_sample_size: Option<f64>,
    /// Share of the largest weight.
    pub largest_share: Option<f64>,
    /// Pareto shape of the upper tail of the weights.
    pub pareto_k: Option<f64>,
    /// Share of the spread that search errors explain.
    pub search_error_share: Option<f64>,
    /// Rays whose search did not end in the ordinary way, infinite ones included.
    pub unusual_rays: Option<u64>,
    /// Number of weights.
    pub dimension: u64,
    /// Nats.
    pub cutoff: f64,
    /// Of the Gaussian prior.
    pub sigma: Option<f64>,
    /// Of the run.
    pub seed: u64,
    /// Whether it is made of rays, whose samples are in the run folder.
    #[serde(default, skip_serializing)]
    pub is_of_rays: bool,
    /// The run folder, below that of the scan.
    pub folder: String,
}

impl Row {
    /// The row of an answer; its diagnostics come from the result as it is in the run folder.
    fn new(kind: ScanKind, point: &Point, manifest: &Manifest, answer: Answer, result: &Value) -> Self {
        let real = |value: &Value| value.as_f64();
        let outcomes = result["outcomes"].as_object();
        Self {
            target: point.target.clone(),
            model: point.model.clone(),
            estimator: point.estimator.clone(),
            preconditioner: point.preconditioner.as_ref().map(|_| {
                let label = manifest.spec.preconditioner.label();
                match &manifest.spec.estimator {
                    EstimatorSpec::Radial(spec) => spec.proposal.directions(label),
                    _ => label.to_owned(),
                }
            }),
            value: if kind == ScanKind::Sigma { manifest.sigma } else { point.value },
            bits_per_parameter: answer.bits_per_parameter,
            samples: result["samples"].as_u64().or_else(|| result["probes"].as_u64()),
            mean: real(&result["mean"]),
            sd: real(&result["sd"]),
            effective_sample_size: real(&result["effective_sample_size"]),
            largest_share: real(&result["largest_share"]),
            pareto_k: real(&result["pareto_k"]),
            search_error_share: real(&result["search_error_share"]),
            unusual_rays: outcomes.map(|all| all.iter().filter(|(name, _)| *name != "converged").filter_map(|(_, n)| n.as_u64()).sum()),
            dimension: manifest.spec.dimension as u64,
            cutoff: manifest.spec.question.cutoff(),
            sigma: manifest.sigma,
            seed: manifest.spec.question.seed(),
            is_of_rays: matches!(manifest.spec.estimator, EstimatorSpec::Radial(_)),
            folder: point.folder.to_string_lossy().into_owned(),
            answer,
        }
    }

    /// The estimate, if it is a number.
    #[must_use]
    pub fn estimate(&self) -> Option<f64> {
        Some(self.answer.log_probability).filter(|value| value.is_finite())
    }

    /// Estimator and preconditioner.
    #[must_use]
    pub fn method(&self) -> String {
        match &self.preconditioner {
            Some(preconditioner) => format!("{}, {preconditioner}", self.estimator),
            None => self.estimator.clone(),
        }
    }

    /// Whether nothing is known but a bound from below.
    #[must_use]
    pub fn is_lower_bound(&self) -> bool {
        self.answer.trust == Trust::LowerBound
    }
}

/// The rows of one run: one, or in a scan of samples one for each number of rays, which are beginnings of the same run.
pub(super) fn rows(kind: ScanKind, counts: &[u64], point: &Point, runs: &[Run]) -> Result<Vec<Row>, Error> {
    let Some(run) = runs.first() else { return Ok(Vec::new()) };
    let Some(rays) = run.details::<Rays>().filter(|_| kind == ScanKind::Samples) else {
        return Ok(vec![Row::new(kind, point, &run.manifest, run.answer.clone(), &run.block)]);
    };
    let all = rays.samples.len().max(1) as f64;
    counts
        .iter()
        .map(|&count| {
            let first: Vec<Sample> = rays.samples.iter().filter(|sample| sample.index < count).cloned().collect();
            let seconds = run.answer.seconds * first.len() as f64 / all;
            let (answer, part) = RadialResult::of(&Manifest { samples: count, ..run.manifest.clone() }, &first, seconds);
            let point = Point { value: Some(count as f64), ..point.clone() };
            Ok(Row::new(kind, &point, &run.manifest, answer, &serde_json::to_value(&part)?))
        })
        .collect()
}

/// One column of the files.
enum Column {
    Text(Vec<Option<String>>),
    Real(Vec<Option<f64>>),
    Count(Vec<Option<i64>>),
}

/// The columns with their names: the one definition of both files.
fn columns(kind: ScanKind, rows: &[Row]) -> Vec<(&'static str, Column)> {
    let text = |get: fn(&Row) -> Option<String>| Column::Text(rows.iter().map(get).collect());
    let real = |get: fn(&Row) -> Option<f64>| Column::Real(rows.iter().map(|row| get(row).filter(|x| !x.is_nan())).collect());
    let count = |get: fn(&Row) -> Option<u64>| Column::Count(rows.iter().map(|row| get(row).and_then(|n| i64::try_from(n).ok())).collect());
    vec![
        ("scan", Column::Text(vec![Some(kind.name().to_owned()); rows.len()])),
        ("target", text(|row| Some(row.target.clone()))),
        ("model", text(|row| Some(row.model.clone()))),
        ("estimator", text(|row| Some(row.estimator.clone()))),
        ("preconditioner", text(|row| row.preconditioner.clone())),
        ("measures", text(|row| Some(row.answer.measures.name().to_owned()))),
        ("value", real(|row| row.value)),
        ("log_probability", real(|row| Some(row.answer.log_probability))),
        ("interval_low", real(|row| row.answer.interval.0)),
        ("interval_high", real(|row| row.answer.interval.1)),
        ("trust", text(|row| Some(row.answer.trust.words().to_owned()))),
        ("bits_per_parameter", real(|row| row.bits_per_parameter)),
        ("samples", count(|row| row.samples)),
        ("mean", real(|row| row.mean)),
        ("sd", real(|row| row.sd)),
        ("effective_sample_size", real(|row| row.effective_sample_size)),
        ("largest_share", real(|row| row.largest_share)),
        ("pareto_k", real(|row| row.pareto_k)),
        ("search_error_share", real(|row| row.search_error_share)),
        ("unusual_rays", count(|row| row.unusual_rays)),
        ("gradients", count(|row| Some(row.answer.gradients))),
        ("evaluations", count(|row| Some(row.answer.evaluations))),
        ("seconds", real(|row| Some(row.answer.seconds))),
        ("dimension", count(|row| Some(row.dimension))),
        ("cutoff", real(|row| Some(row.cutoff))),
        ("sigma", real(|row| row.sigma)),
        ("seed", count(|row| Some(row.seed))),
        ("note", text(|row| row.answer.reasons.first().cloned())),
        ("folder", text(|row| Some(row.folder.clone()))),
    ]
}

/// Writes the table as comma-separated values: a missing value is an empty cell.
pub(super) fn write_csv(path: &Path, kind: ScanKind, rows: &[Row]) -> Result<(), Error> {
    let columns = columns(kind, rows);
    let write = || -> Result<Vec<u8>, csv::Error> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(columns.iter().map(|(name, _)| *name))?;
        for k in 0..rows.len() {
            writer.write_record(columns.iter().map(|(_, column)| match column {
                Column::Text(values) => values[k].clone().unwrap_or_default(),
                Column::Real(values) => values[k].map_or_else(String::new, |x| x.to_string()),
                Column::Count(values) => values[k].map_or_else(String::new, |n| n.to_string()),
            }))?;
        }
        writer.into_inner().map_err(|error| error.into_error().into())
    };
    let bytes = write().context(|| format!("the table {} cannot be written", path.display()))?;
    Ok(folder::write_atomically(path, &bytes)?)
}

/// Writes the table as Parquet: text, f64 and i64 columns, each of which may miss values.
pub(super) fn write_parquet(path: &Path, kind: ScanKind, rows: &[Row]) -> Result<(), Error> {
    let unfinished = path.with_extension("partial");
    let words = || format!("cannot write {}", path.display());
    let file = File::create(&unfinished).context(words)?;
    parquet(file, &columns(kind, rows)).context(words)?;
    std::fs::rename(&unfinished, path).context(words)
}

fn parquet(file: File, columns: &[(&'static str, Column)]) -> Result<(), ParquetError> {
    let field = |(name, column): &(&'static str, Column)| {
        let (physical, logical) = match column {
            Column::Text(_) => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
            Column::Real(_) => (Physical::DOUBLE, None),
            Column::Count(_) => (Physical::INT64, None),
        };
        let built = Type::primitive_type_builder(name, physical).with_repetition(Repetition::OPTIONAL).with_logical_type(logical).build();
        built.map(Arc::new)
    };
    let fields = columns.iter().map(field).collect::<Result<Vec<_>, _>>()?;
    let schema = Arc::new(Type::group_type_builder("scan").with_fields(fields).build()?);
    let properties = Arc::new(WriterProperties::builder().set_compression(Compression::SNAPPY).build());
    let mut writer = SerializedFileWriter::new(file, schema, properties)?;
    let mut group = writer.next_row_group()?;
    for (_, column) in columns {
        let Some(mut out) = group.next_column()? else { break };
        match column {
            Column::Text(values) => {
                let present: Vec<ByteArray> = values.iter().flatten().map(|text| ByteArray::from(text.as_bytes().to_vec())).collect();
                out.typed::<ByteArrayType>().write_batch(&present, Some(&levels(values)), None)?;
            }
            Column::Real(values) => {
                let present: Vec<f64> = values.iter().flatten().copied().collect();
                out.typed::<DoubleType>().write_batch(&present, Some(&levels(values)), None)?;
            }
            Column::Count(values) => {
                let present: Vec<i64> = values.iter().flatten().copied().collect();
                out.typed::<Int64Type>().write_batch(&present, Some(&levels(values)), None)?;
            }
        }
        out.close()?;
    }
    group.close()?;
    writer.close()?;
    Ok(())
}

/// 1 where there is a value.
fn levels<T>(values: &[Option<T>]) -> Vec<i16> {
    values.iter().map(|value| i16::from(value.is_some())).collect()
}
