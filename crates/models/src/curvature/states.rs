//! Curvature away from the center: at the states of chains, for their metric.

use basin_volume::coordinates::Coordinates;
use basin_volume::estimator::annealed::Metrics;
use basin_volume::interrupt::Interrupt;
use basin_volume::objective::ObjectiveError;
use basin_volume::preconditioner::{Damping, Diagonal, Kronecker, KroneckerCurvature, KroneckerTensor, LowRankDiagonal, Preconditioner};
use basin_volume::spec::Metric;

use super::{Curvature, LowRankSettings, Observer, RestDiagonal, Scores, fisher_diagonal, kronecker, low_rank, probe_seed};
use crate::parameters::{Moving, ParameterLayout};

/// Eigenvectors of low-rank curvature at each state.
const RANK: usize = 16;

/// Makes the cost around another center.
pub type Recenter<'a> = Box<dyn Fn(Moving) -> Result<Box<dyn Scores + Send + Sync + 'a>, ObjectiveError> + Send + Sync + 'a>;

/// The Fisher matrix of the networks that the states are, which is the Hessian of the KL divergence from each to its neighbours, in the form
/// of a [`Metric`], averaged over the states.
///
/// Every state is made the center of a cost of its own, one after the other: a forward pass for its outputs, then what the
/// curvature takes. Memory: a second copy of all weights while it lasts, beside what [`super::low_rank`] and [`super::kronecker`] say.
pub struct StateMetrics<'a> {
    kind: Metric,
    moving: Moving,
    seed: u64,
    recenter: Recenter<'a>,
    interrupt: Interrupt,
}

/// Shows nothing, and stops when an interrupt is raised.
struct Stopping<'a>(&'a Interrupt);

impl Observer for Stopping<'_> {
    fn step(&mut self, _done: usize, _total: usize) {}

    fn interrupted(&self) -> bool {
        self.0.is_raised()
    }
}

impl std::fmt::Debug for StateMetrics<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StateMetrics").field("kind", &self.kind).field("seed", &self.seed).finish_non_exhaustive()
    }
}

impl<'a> StateMetrics<'a> {
    /// Metrics of this kind; `seed` is that of drawn labels and of Lanczos' first vector. They end in an error that says so when the interrupt is
    /// raised.
    #[must_use]
    pub fn new(kind: Metric, moving: Moving, seed: u64, recenter: Recenter<'a>, interrupt: &Interrupt) -> Self {
        Self { kind, moving, seed, recenter, interrupt: interrupt.clone() }
    }

    /// Vectors of length `D` that computing a metric takes at most, and that stay.
    #[must_use]
    pub fn vectors(kind: Metric, chains: u64) -> u64 {
        match kind {
            Metric::Auto | Metric::None => 0,
            Metric::Diagonal => 6,
            Metric::Kronecker => 12,
            Metric::LowRank => 3 * RANK as u64 + 14 + chains * (RANK as u64 + 1),
        }
    }

    fn rank(&self) -> usize {
        RANK.min(self.moving.dimension())
    }

    fn curvature(&self, model: &dyn Scores) -> Result<Curvature, ObjectiveError> {
        let observer = &mut Stopping(&self.interrupt);
        let curvature = match self.kind {
            Metric::Auto | Metric::None => return Err(ObjectiveError::new("no metric is asked for")),
            Metric::Diagonal => fisher_diagonal(model, 1, self.seed, observer).map(|curvature| smoothed(curvature, self.moving.layout())),
            Metric::Kronecker => kronecker(model, 1, self.seed, observer),
            Metric::LowRank => low_rank(model, LowRankSettings::new(self.rank(), self.seed), observer).map(|(curvature, _)| curvature),
        };
        curvature.map_err(|error| if error.is_interrupt() { ObjectiveError::interrupted() } else { ObjectiveError::new(error) })
    }
}

impl Metrics for StateMetrics<'_> {
    fn metric(&self, states: &[&[f32]], damping: Damping) -> Result<Box<dyn Preconditioner>, ObjectiveError> {
        let mut mean: Option<Curvature> = None;
        for state in states {
            if self.interrupt.is_raised() {
                return Err(ObjectiveError::interrupted());
            }
            let own = {
                let model = (self.recenter)(self.moving.centered_at(state))?;
                self.curvature(&*model)?
            };
            mean = Some(match mean {
                None => own.scaled(1.0 / states.len() as f32),
                Some(sum) => sum.plus(own.scaled(1.0 / states.len() as f32))?,
            });
        }
        let mean = mean.ok_or_else(|| ObjectiveError::new("a metric needs a state"))?;
        root(mean, self.moving.layout(), damping)
    }

    fn gradients(&self) -> u64 {
        match self.kind {
            Metric::Auto | Metric::None => 0,
            Metric::Diagonal => 2,
            Metric::Kronecker => 3,
            Metric::LowRank => 2 * LowRankSettings::new(self.rank(), self.seed).steps as u64 + 2,
        }
    }
}

/// Drawn labels per position and state: a few gradients say enough of rows and columns, and of single entries of vectors.
const DRAWS: u64 = 8;

/// The diagonal of the Fisher matrix in coordinates other than the weights, averaged over the states, every matrix smoothed into rows and columns: the
/// mean square of the score of all positions together, whose labels are drawn one by one, so that the products between positions are zero on
/// average.
pub struct CoordinateMetrics<'a> {
    coordinates: &'a (dyn Coordinates + Sync),
    layout: ParameterLayout,
    positions: usize,
    seed: u64,
    interrupt: Interrupt,
}

impl std::fmt::Debug for CoordinateMetrics<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CoordinateMetrics").field("positions", &self.positions).field("seed", &self.seed).finish_non_exhaustive()
    }
}

impl<'a> CoordinateMetrics<'a> {
    /// Metrics of a cost that is the mean over so many positions; `seed` is that of drawn labels. They end in an error that says so when the interrupt
    /// is raised.
    #[must_use]
    pub fn new(
        coordinates: &'a (dyn Coordinates + Sync),
        layout: ParameterLayout,
        positions: usize,
        seed: u64,
        interrupt: &Interrupt,
    ) -> Self {
        Self { coordinates, layout, positions, seed, interrupt: interrupt.clone() }
    }
}

impl Metrics for CoordinateMetrics<'_> {
    fn metric(&self, states: &[&[f32]], damping: Damping) -> Result<Box<dyn Preconditioner>, ObjectiveError> {
        let dimension = self.layout.dimension();
        let (mut values, mut gradient) = (vec![0.0f32; dimension], vec![0.0f32; dimension]);
        let share = self.positions as f32 / (states.len() as f32 * DRAWS as f32);
        for state in states {
            for draw in 0..DRAWS {
                if self.interrupt.is_raised() {
                    return Err(ObjectiveError::interrupted());
                }
                self.coordinates.likelihood_gradient(
                    state,
                    0..self.coordinates.parts(),
                    probe_seed(self.seed, draw as usize),
                    &mut gradient,
                )?;
                values.iter_mut().zip(&gradient).for_each(|(sum, slope)| *sum += share * slope * slope);
            }
        }
        if let Some(place) = values.iter().position(|value| !value.is_finite()) {
            return Err(ObjectiveError::new(format!("the curvature along coordinate {place} is not finite: choose `coordinates=weights`")));
        }
        root(smoothed(Curvature::Diagonal { values }, &self.layout), &self.layout, damping)
    }

    fn gradients(&self) -> u64 {
        DRAWS
    }
}

impl Curvature {
    /// Times a number, which for Kronecker factors goes to the row factor.
    fn scaled(mut self, by: f32) -> Self {
        let scale = |values: &mut [f32]| values.iter_mut().for_each(|value| *value *= by);
        match &mut self {
            Self::Diagonal { values } | Self::Factors { values } => scale(values),
            Self::Kronecker { blocks, diagonal } => {
                scale(diagonal);
                for block in blocks {
                    // Both factors are means over the states: their product is not the mean of the products, but close to it, and a product.
                    scale(&mut block.row_factor);
                    scale(&mut block.column_factor);
                }
            }
            Self::LowRankDiagonal { eigenvalues, rest, .. } => {
                scale(eigenvalues);
                match rest {
                    RestDiagonal::Uniform(value) => *value *= by,
                    RestDiagonal::PerWeight(values) => scale(values),
                }
            }
        }
        self
    }

    /// The sum with a curvature of the same form; low-rank parts stand side by side.
    fn plus(mut self, other: Self) -> Result<Self, ObjectiveError> {
        let add = |values: &mut [f32], others: &[f32]| values.iter_mut().zip(others).for_each(|(value, other)| *value += other);
        match (&mut self, other) {
            (Self::Diagonal { values }, Self::Diagonal { values: others }) => add(values, &others),
            (Self::Kronecker { blocks, diagonal }, Self::Kronecker { blocks: other_blocks, diagonal: others }) => {
                add(diagonal, &others);
                for (block, other) in blocks.iter_mut().zip(&other_blocks) {
                    add(&mut block.row_factor, &other.row_factor);
                    add(&mut block.column_factor, &other.column_factor);
                }
            }
            (
                Self::LowRankDiagonal { basis, eigenvalues, rest: RestDiagonal::PerWeight(values) },
                Self::LowRankDiagonal { basis: other_basis, eigenvalues: other_eigenvalues, rest: RestDiagonal::PerWeight(others) },
            ) => {
                basis.extend(other_basis);
                eigenvalues.extend(other_eigenvalues);
                add(values, &others);
            }
            _ => return Err(ObjectiveError::new("curvatures of different forms have no mean")),
        }
        Ok(self)
    }

    /// One entry per tensor of the layout, for [`KroneckerCurvature`]. Factors and diagonal must fit it ([`Curvature::validate`]).
    #[must_use]
    pub fn kronecker_tensors<'c>(
        layout: &ParameterLayout,
        blocks: &'c [super::KroneckerBlock],
        diagonal: &'c [f32],
    ) -> Vec<KroneckerTensor<'c>> {
        let (mut next, mut rest) = (blocks.iter().peekable(), diagonal);
        let tensors = layout.parameters().iter().map(|parameter| match next.next_if(|block| block.parameter == parameter.name) {
            Some(block) => {
                KroneckerTensor::Product { row_factor: &block.row_factor, column_factor: &block.column_factor, scale: block.scale }
            }
            None => {
                let (values, others) = rest.split_at(parameter.len());
                rest = others;
                KroneckerTensor::Diagonal(values)
            }
        });
        tensors.collect()
    }
}

/// Every matrix of a diagonal as the product of its row and column sums over the sum of all: a few sampled gradients say little about one entry and
/// much about rows and columns, which is where the entries differ. (Adafactor: Shazeer & Stern 2018.) The sums stay what they are.
fn smoothed(mut curvature: Curvature, layout: &ParameterLayout) -> Curvature {
    let Curvature::Diagonal { values } = &mut curvature else { return curvature };
    for parameter in layout.parameters().iter().filter(|parameter| parameter.shape.len() > 1) {
        let values = &mut values[parameter.range()];
        let columns = values.len() / parameter.shape[0].max(1);
        if columns < 2 {
            continue;
        }
        let mut of_columns = vec![0.0f64; columns];
        let mut total = 0.0f64;
        for row in values.chunks_exact(columns) {
            row.iter().zip(&mut of_columns).for_each(|(value, sum)| *sum += f64::from(*value));
            total += row.iter().map(|value| f64::from(*value)).sum::<f64>();
        }
        if total > 0.0 {
            for row in values.chunks_exact_mut(columns) {
                let of_row = row.iter().map(|value| f64::from(*value)).sum::<f64>() / total;
                row.iter_mut().zip(&of_columns).for_each(|(value, of_column)| *value = (of_row * of_column) as f32);
            }
        }
    }
    curvature
}

/// A root of `(beta H + 1/sigma^2)^-1`.
fn root(curvature: Curvature, layout: &ParameterLayout, damping: Damping) -> Result<Box<dyn Preconditioner>, ObjectiveError> {
    let dimension = layout.dimension();
    let made: Result<Box<dyn Preconditioner>, _> = match curvature {
        Curvature::Diagonal { values } => Diagonal::from_curvature(&values, damping).map(|map| Box::new(map) as _),
        Curvature::Kronecker { blocks, diagonal } => KroneckerCurvature::new(Curvature::kronecker_tensors(layout, &blocks, &diagonal))
            .and_then(|curvature| Kronecker::new(curvature, damping))
            .map(|map| Box::new(map) as _),
        Curvature::LowRankDiagonal { basis, eigenvalues, rest } => {
            LowRankDiagonal::new(basis, &eigenvalues, rest.view(), dimension, damping).map(|map| Box::new(map) as _)
        }
        Curvature::Factors { .. } => return Err(ObjectiveError::new("a learned map is not a curvature")),
    };
    made.map_err(ObjectiveError::new)
}

#[cfg(test)]
mod tests {
    use basin_volume_data::Dataset;

    use super::*;
    use crate::arch::{Architecture, MlpConfig};
    use crate::cost::MlpKl;
    use crate::parameters::Parameters;

    fn normals(count: usize, seed: u64) -> Vec<f32> {
        let mut out = vec![0.0; count];
        basin_volume::random::NormalVector::new(basin_volume::random::Purpose::Trials, seed, 0, count).fill(0..count, &mut out);
        out
    }

    #[test]
    fn a_diagonal_is_smoothed_into_rows_and_columns() {
        let layout =
            ParameterLayout::new([("matrix".to_owned(), vec![2, 3]), ("bias".to_owned(), vec![2]), ("unused".to_owned(), vec![2, 2])]);
        // Rank one already; a vector; a matrix that nothing reaches.
        let values = vec![1.0, 2.0, 3.0, 2.0, 4.0, 6.0, 5.0, 7.0, 0.0, 0.0, 0.0, 0.0];
        let Curvature::Diagonal { values: same } = smoothed(Curvature::Diagonal { values: values.clone() }, &layout) else { panic!() };
        assert!(same.iter().zip(&values).all(|(a, b)| (a - b).abs() < 1e-6), "{same:?}");
        let values = vec![6.0, 0.0, 0.0, 0.0, 0.0, 6.0, 5.0, 7.0, 0.0, 0.0, 0.0, 0.0];
        let Curvature::Diagonal { values: spread } = smoothed(Curvature::Diagonal { values }, &layout) else { panic!() };
        assert_eq!(spread, [3.0, 0.0, 3.0, 3.0, 0.0, 3.0, 5.0, 7.0, 0.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn a_metric_whitens_the_curvature_at_its_states() {
        let network = MlpConfig::from_widths(vec![5, 6, 3]).unwrap();
        let layout = network.layout();
        let dimension = layout.dimension();
        let data = Dataset::new("rows", 5, normals(40 * 5, 1), None).unwrap();
        let center = normals(dimension, 2);
        let moving = Moving::from(Parameters::new(layout, center.clone()));
        let states: Vec<Vec<f32>> = (3..5).map(|seed| normals(dimension, seed)).collect();
        let recenter = |moving: Moving| -> Result<Box<dyn Scores + Send + Sync>, ObjectiveError> {
            Ok(Box::new(MlpKl::new(network.clone(), moving, &data).map_err(ObjectiveError::new)?))
        };
        let damping = Damping { beta: 400.0, sigma: 1.0 };
        // The mean Fisher matrix, column by column.
        let mut fisher = vec![0.0f64; dimension * dimension];
        for state in &states {
            let model = recenter(moving.centered_at(state)).unwrap();
            let matrix = model.fisher_matrix().unwrap();
            for column in 0..dimension {
                let (mut unit, mut product) = (vec![0.0f32; dimension], vec![0.0f32; dimension]);
                unit[column] = 1.0;
                matrix.product(&unit, &mut product).unwrap();
                (0..dimension).for_each(|row| fisher[row * dimension + column] += 0.5 * f64::from(product[row]));
            }
        }
        let largest = |map: Option<&dyn Preconditioner>| {
            // The largest eigenvalue of R'(beta F + 1)R by power iteration.
            let mut x: Vec<f32> = normals(dimension, 9);
            let mut value = 0.0;
            for _ in 0..200 {
                let mut y = x.clone();
                if let Some(map) = map {
                    map.apply(0..dimension, &x, &mut y);
                    y.iter_mut().for_each(|y| *y = (f64::from(*y) * map.scale() * map.root_scale().unwrap()) as f32);
                }
                let mut z: Vec<f32> = (0..dimension)
                    .map(|i| {
                        let product: f64 = (0..dimension).map(|j| fisher[i * dimension + j] * f64::from(y[j])).sum();
                        (400.0 * product + f64::from(y[i])) as f32
                    })
                    .collect();
                if let Some(map) = map {
                    map.apply_transpose(&mut z);
                    z.iter_mut().for_each(|z| *z = (f64::from(*z) * map.root_scale().unwrap()) as f32);
                }
                value = z.iter().map(|z| f64::from(*z).powi(2)).sum::<f64>().sqrt();
                x = z.iter().map(|z| (f64::from(*z) / value) as f32).collect();
            }
            value
        };
        let plain = largest(None);
        let references: Vec<&[f32]> = states.iter().map(Vec::as_slice).collect();
        for (kind, factor) in [(Metric::Diagonal, 1.5), (Metric::Kronecker, 5.0), (Metric::LowRank, 10.0)] {
            let interrupt = Interrupt::new();
            let metrics = StateMetrics::new(kind, moving.clone(), 1, Box::new(recenter), &interrupt);
            let map = metrics.metric(&references, damping).unwrap();
            let found = largest(Some(&*map));
            assert!(found < plain / factor && found > 0.5, "{kind:?}: {found}, and {plain} without a metric");
            // Interrupted while the first curvature is computed.
            let raising = |moving: Moving| {
                interrupt.raise();
                recenter(moving)
            };
            let metrics = StateMetrics::new(kind, moving.clone(), 1, Box::new(raising), &interrupt);
            assert!(metrics.metric(&references, damping).is_err_and(|error| error.is_interrupt()), "{kind:?}");
        }
    }
}
