//! What of a network's weights is on a device: the center as it is stored, a direction, and the weights along its ray.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use basin_volume::direction::Direction;
use basin_volume::objective::RayPoint;
use candle_core::{DType, Device, Result, Tensor};
use half::{bf16, f16};

use super::{cut, normals};
use crate::cost::PIECE;
use crate::parameters::{Moving, MovingTensor, Parameter};
use crate::weights::Element;

/// Center, direction and weights along a ray on a device.
#[derive(Debug)]
pub(super) struct DeviceWeights {
    device: Device,
    /// Of the forward pass.
    dtype: DType,
    /// One per parameter, in the type that it is stored in.
    center: Vec<Tensor>,
    /// Whether a direction stays on the device while its ray is searched.
    keeps_direction: bool,
    /// The direction used last: its identity, and one vector per moving parameter.
    direction: Mutex<Option<(u64, Vec<Tensor>)>>,
}

impl DeviceWeights {
    /// Sends the center to the device.
    pub(super) fn new(moving: &Moving, device: &Device, dtype: DType, keeps_direction: bool) -> Result<Self> {
        let parameters = moving.center().layout().parameters();
        let mut scratch = Vec::new();
        let mut center = Vec::with_capacity(parameters.len());
        for (number, parameter) in parameters.iter().enumerate() {
            let values = moving.center().slice(parameter.range(), &mut scratch);
            let shape = parameter.shape.as_slice();
            center.push(match moving.center().held_as(number) {
                Element::BF16 => Tensor::from_vec(values.iter().map(|&value| bf16::from_f32(value)).collect::<Vec<_>>(), shape, device)?,
                Element::F16 => Tensor::from_vec(values.iter().map(|&value| f16::from_f32(value)).collect::<Vec<_>>(), shape, device)?,
                _ => Tensor::from_slice(values, shape, device)?,
            });
        }
        Ok(Self { device: device.clone(), dtype, center, keeps_direction, direction: Mutex::default() })
    }

    /// The center in the type of the forward pass: the parameters that are asked for.
    pub(super) fn center(&self, moving: &Moving, is_needed: impl Fn(&Parameter) -> bool) -> Result<Vec<Option<Tensor>>> {
        let parameters = moving.center().layout().parameters().iter().zip(&self.center);
        parameters.map(|(parameter, tensor)| is_needed(parameter).then(|| tensor.to_dtype(self.dtype)).transpose()).collect()
    }

    /// What moves of every parameter: nothing, all, or some rows and columns, each with its number among all that move.
    fn places(moving: &Moving) -> impl Iterator<Item = Vec<(usize, MovingTensor<'_>)>> {
        let mut moved = moving.tensors().enumerate().peekable();
        (0..moving.center().layout().parameters().len())
            .map(move |number| std::iter::from_fn(|| moved.next_if(|(_, own)| own.number == number)).collect())
    }

    /// Whether each parameter moves, or some of it.
    pub(super) fn moves(moving: &Moving) -> Vec<bool> {
        Self::places(moving).map(|own| !own.is_empty()).collect()
    }

    /// A parameter in the type of the forward pass: the center's, with the rows and columns that move made by `values`, flat.
    fn replaced<'m>(
        &self,
        center: &Tensor,
        own: Vec<(usize, MovingTensor<'m>)>,
        values: impl Fn(usize, MovingTensor<'m>) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let mut weight: Option<Tensor> = None;
        for (number, tensor) in own {
            let values = values(number, tensor)?.to_dtype(self.dtype)?;
            if tensor.is_whole() {
                return values.reshape(center.shape());
            }
            let before = match weight {
                Some(weight) => weight,
                None => center.to_dtype(self.dtype)?,
            };
            weight = Some(cut::put(&before, tensor, &values)?);
        }
        weight.map_or_else(|| center.to_dtype(self.dtype), Ok)
    }

    /// Weights of which `values` are the moving ones (length `D`), in the type of the forward pass; the others are the center's.
    pub(super) fn with(&self, moving: &Moving, values: &[f32]) -> Result<Vec<Tensor>> {
        let given = |_, tensor: MovingTensor<'_>| Tensor::from_slice(&values[tensor.own.range()], tensor.own.len(), &self.device);
        Self::places(moving).zip(&self.center).map(|(own, center)| self.replaced(center, own, given)).collect()
    }

    /// As [`DeviceWeights::with`], of values that are on the device: a vector of length `D` in `f32`.
    pub(super) fn of(&self, moving: &Moving, values: &Tensor) -> Result<Vec<Tensor>> {
        let given = |_, tensor: MovingTensor<'_>| values.narrow(0, tensor.own.offset, tensor.own.len());
        Self::places(moving).zip(&self.center).map(|(own, center)| self.replaced(center, own, given)).collect()
    }

    /// The weights `point.center * c + point.direction * v` in the type of the forward pass; those that do not move are the center's.
    ///
    /// They are combined in `f64` where the device has it, rounded to `f32`, and then to the type of the forward pass: in `f32` the bits of
    /// [`Moving::write_point`].
    pub(super) fn at(&self, moving: &Moving, direction: &Direction, point: RayPoint) -> Result<Vec<Option<Tensor>>> {
        let kept = self.kept(moving, direction)?;
        let factors = (point.center, point.direction * direction.scale());
        let weights = Self::places(moving).zip(&self.center).map(|(own, center)| {
            let combined = |number: usize, tensor: MovingTensor<'_>| {
                let vector = kept.as_ref().map(|kept| &kept[number]);
                let offset = tensor.own.offset;
                let part = |range: Range<usize>| match vector {
                    Some(vector) => vector.narrow(0, range.start, range.len()),
                    None => normals::coordinates(direction, offset + range.start..offset + range.end, &self.device),
                };
                let center = if tensor.is_whole() { center.flatten_all()? } else { cut::taken(center, tensor)? };
                self.combined(&center, &part, factors)
            };
            self.replaced(center, own, combined).map(Some)
        });
        weights.collect()
    }

    /// The direction on the device, where it is kept: made for its first evaluation, and used again by the others.
    fn kept(&self, moving: &Moving, direction: &Direction) -> Result<Option<Vec<Tensor>>> {
        if !self.keeps_direction {
            return Ok(None);
        }
        let mut last = self.direction.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, tensors)) = last.as_ref().filter(|(identity, _)| *identity == direction.identity()) {
            return Ok(Some(tensors.clone()));
        }
        // The old one goes first: both together may not fit. Nothing is locked while the new one is made, in parallel.
        *last = None;
        drop(last);
        let parameters = moving.layout().parameters().iter();
        let made =
            parameters.map(|parameter| normals::coordinates(direction, parameter.range(), &self.device)).collect::<Result<Vec<_>>>()?;
        *self.direction.lock().unwrap_or_else(PoisonError::into_inner) = Some((direction.identity(), made.clone()));
        Ok(Some(made))
    }

    /// `factors.0 * center + factors.1 * direction`, a piece at a time.
    fn combined(&self, center: &Tensor, direction: &dyn Fn(Range<usize>) -> Result<Tensor>, factors: (f64, f64)) -> Result<Tensor> {
        let precise = if self.device.is_metal() { DType::F32 } else { DType::F64 };
        let (count, flat) = (center.elem_count(), center.flatten_all()?);
        let combine = |range: Range<usize>| -> Result<Tensor> {
            let scaled = (flat.narrow(0, range.start, range.len())?.to_dtype(precise)? * factors.0)?;
            let step = (direction(range)?.to_dtype(precise)? * factors.1)?;
            (scaled + step)?.to_dtype(DType::F32)?.to_dtype(self.dtype)
        };
        if count <= PIECE {
            return combine(0..count)?.reshape(center.shape());
        }
        let whole = Tensor::zeros(count, self.dtype, &self.device)?;
        for start in (0..count).step_by(PIECE) {
            whole.slice_set(&combine(start..(start + PIECE).min(count))?, 0, start)?;
        }
        whole.reshape(center.shape())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use basin_volume::direction::DirectionFamily;
    use basin_volume::preconditioner::{Diagonal, DiagonalMap, Identity, Preconditioner};

    use super::*;
    use crate::parameters::{Chosen, ParameterLayout, Parameters};

    fn bits(tensors: &[Option<Tensor>]) -> Vec<u32> {
        let values = |tensor: &Option<Tensor>| tensor.as_ref().unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        tensors.iter().flat_map(values).map(f32::to_bits).collect()
    }

    #[test]
    fn the_point_of_a_ray_has_the_bits_of_the_processor_however_the_direction_is_kept() {
        // One tensor that stays, and one that is combined in pieces.
        let shapes = [("fixed", 51), ("small", 70), ("large", PIECE + 77)];
        let layout = ParameterLayout::new(shapes.map(|(name, length)| (name.to_owned(), vec![length])));
        let values: Vec<f32> = (0..layout.dimension()).map(|i| (i as f32 * 0.37).sin()).collect();
        let moving = Moving::matching(Parameters::new(layout, values), None, Some("fixed")).unwrap();
        let mut own = vec![0.0f32; moving.dimension()];
        moving.fill(0..own.len(), &mut own);
        let diagonal = || Diagonal::from_curvature(&own.iter().map(|c| c.abs() + 0.1).collect::<Vec<_>>(), DiagonalMap::default()).unwrap();
        let maps: [Arc<dyn Preconditioner>; 2] = [Arc::new(Identity), Arc::new(diagonal())];
        let point = RayPoint { center: 0.75, direction: 1.5 };
        for map in maps {
            let family = DirectionFamily::new(3, moving.dimension(), map);
            let mut expected = Vec::new();
            moving.prepare(&mut expected);
            moving.write_point(&family.direction(1, &own, None, true), point, &mut expected);
            let expected: Vec<u32> = expected.into_iter().map(f32::to_bits).collect();
            for keeps_direction in [true, false] {
                let weights = DeviceWeights::new(&moving, &Device::Cpu, DType::F32, keeps_direction).unwrap();
                for is_stored in [true, false] {
                    let direction = family.direction(1, &own, None, is_stored);
                    // Twice: the second time what is kept is used again.
                    for _ in 0..2 {
                        assert!(bits(&weights.at(&moving, &direction, point).unwrap()) == expected, "{keeps_direction} {is_stored}");
                    }
                    let kept = weights.direction.lock().unwrap().as_ref().map(|(identity, _)| *identity);
                    assert_eq!(kept, keeps_direction.then(|| direction.identity()));
                }
            }
        }
    }

    #[test]
    fn rows_and_columns_move_alone() {
        let layout = ParameterLayout::new([("a", vec![4, 6]), ("b", vec![4])].map(|(name, shape)| (name.to_owned(), shape)));
        let mut chosen = Chosen::of_block(&layout, 0, &(1..4).into(), &(2..4).into());
        chosen.extend(&Chosen::of_range(&layout, &(12..18)));
        chosen.extend(&Chosen::of_range(&layout, &(25..27)));
        let center: Vec<f32> = (0..28u8).map(f32::from).collect();
        let moving = Moving::of(Parameters::new(layout, center), &chosen).unwrap();
        let weights = DeviceWeights::new(&moving, &Device::Cpu, DType::F32, true).unwrap();
        let given: Vec<f32> = (0..moving.dimension()).map(|i| -1.0 - i as f32).collect();
        let mut expected = Vec::new();
        moving.prepare(&mut expected);
        moving.scatter(&given, &mut expected);
        let flat = |tensors: Vec<Tensor>| -> Vec<f32> {
            tensors.iter().flat_map(|tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap()).collect()
        };
        assert_eq!(flat(weights.with(&moving, &given).unwrap()), expected);
        let vector = Tensor::from_slice(&given, given.len(), &Device::Cpu).unwrap();
        assert_eq!(flat(weights.of(&moving, &vector).unwrap()), expected);
        // Taken again they are what was put.
        let all = weights.with(&moving, &given).unwrap();
        let again: Vec<Tensor> = moving.tensors().map(|tensor| cut::taken(&all[tensor.number], tensor).unwrap()).collect();
        assert_eq!(flat(again), given);
        let mut own = vec![0.0; given.len()];
        moving.fill(0..own.len(), &mut own);
        let family = DirectionFamily::new(3, moving.dimension(), Arc::new(Identity));
        let (direction, point) = (family.direction(1, &own, None, true), RayPoint { center: 0.75, direction: 1.5 });
        moving.write_point(&direction, point, &mut expected);
        let expected: Vec<u32> = expected.into_iter().map(f32::to_bits).collect();
        assert_eq!(bits(&weights.at(&moving, &direction, point).unwrap()), expected);
    }

    #[test]
    fn moving_weights_come_from_outside_and_the_others_from_the_center() {
        let layout = ParameterLayout::new([("a", 3), ("b", 2), ("c", 4)].map(|(name, length)| (name.to_owned(), vec![length])));
        let moving = Moving::matching(Parameters::new(layout, (1..10u8).map(f32::from).collect()), None, Some("b")).unwrap();
        let weights = DeviceWeights::new(&moving, &Device::Cpu, DType::F32, false).unwrap();
        let given: Vec<f32> = (0..7u8).map(|i| -f32::from(i)).collect();
        let found: Vec<Vec<f32>> = weights.with(&moving, &given).unwrap().iter().map(|tensor| tensor.to_vec1().unwrap()).collect();
        assert_eq!(found, [vec![0.0, -1.0, -2.0], vec![4.0, 5.0], vec![-3.0, -4.0, -5.0, -6.0]]);
        assert_eq!(DeviceWeights::moves(&moving), [true, false, true]);
    }
}
