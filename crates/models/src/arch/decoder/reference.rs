//! The same decoder in `f64` with plain loops, one position after the other: the oracle of the tests, and the yardstick for the rounding
//! noise.

use rayon::prelude::*;

use super::{Decoder, Inner, Linear, Norm, Projection};
use crate::nn::NormKind;

/// Outputs of a matrix that are worth a task.
const OUTPUTS: usize = 64;

fn dense(linear: &Linear, weights: &[f32], input: &[f64]) -> Vec<f64> {
    let weight = &weights[linear.weight.clone()];
    (0..linear.outputs)
        .into_par_iter()
        .with_min_len(OUTPUTS)
        .map(|output| {
            let sum: f64 = if linear.transposed {
                input.iter().enumerate().map(|(i, x)| f64::from(weight[i * linear.outputs + output]) * x).sum()
            } else {
                weight[output * linear.inputs..][..linear.inputs].iter().zip(input).map(|(&w, x)| f64::from(w) * x).sum()
            };
            sum + linear.bias.as_ref().map_or(0.0, |bias| f64::from(weights[bias.start + output]))
        })
        .collect()
}

fn normed(norm: Option<&Norm>, weights: &[f32], input: &[f64]) -> Vec<f64> {
    let Some(norm) = norm else { return input.to_vec() };
    let group = |(group, values): (usize, &[f64])| -> Vec<f64> {
        let norm = norm.of_group(group);
        let count = values.len() as f64;
        let mean = if norm.kind == NormKind::Layer { values.iter().sum::<f64>() / count } else { 0.0 };
        let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
        let scale = 1.0 / (variance + f64::from(norm.epsilon)).sqrt();
        let one = if norm.kind == NormKind::RmsPlusOne { 1.0 } else { 0.0 };
        let element = |(i, x): (usize, &f64)| {
            let weight = norm.weight.as_ref().map_or(1.0, |weight| f64::from(weights[weight.start + i]) + one);
            let bias = norm.bias.as_ref().map_or(0.0, |bias| f64::from(weights[bias.start + i]));
            (x - mean) * scale * weight + bias
        };
        values.iter().enumerate().map(element).collect()
    };
    input.chunks(norm.width).enumerate().flat_map(group).collect()
}

/// Logits of every position of one sequence, `[tokens, vocabulary]`.
pub(crate) fn logits_exact(decoder: &Decoder, weights: &[f32], ids: &[u32]) -> Vec<f64> {
    let width = decoder.heads.width;
    let mut states: Vec<Vec<f64>> = (ids.iter().enumerate())
        .map(|(place, &id)| {
            let row = &weights[decoder.embedding.start + id as usize * decoder.embedding_width..][..decoder.embedding_width];
            let mut state: Vec<f64> = row.iter().map(|&value| f64::from(value) * f64::from(decoder.embedding_scale)).collect();
            if let Some(linear) = &decoder.project_in {
                state = dense(linear, weights, &state);
            }
            if let Some((range, offset)) = &decoder.learned_positions {
                let row = &weights[range.start + (place + offset) * decoder.hidden..][..decoder.hidden];
                state.iter_mut().zip(row).for_each(|(state, &value)| *state += f64::from(value));
            }
            state
        })
        .collect();
    for layer in &decoder.layers {
        let attention = &layer.attention;
        let (mut queries, mut keys, mut values) = (Vec::new(), Vec::new(), Vec::new());
        for (place, state) in states.iter().enumerate() {
            let input = normed(layer.before_attention.as_ref(), weights, state);
            let (query, key, value) = match &attention.projection {
                Projection::Separate { query, key, value } => {
                    (dense(query, weights, &input), dense(key, weights, &input), dense(value, weights, &input))
                }
                Projection::Stacked(linear) => {
                    let all = dense(linear, weights, &input);
                    let (first, second) = (decoder.heads.query_width(), decoder.heads.query_width() + decoder.heads.key_width());
                    (all[..first].to_vec(), all[first..second].to_vec(), all[second..].to_vec())
                }
                Projection::Interleaved(linear) => {
                    let all = dense(linear, weights, &input);
                    let part =
                        |which: usize| all.chunks(3 * width).flat_map(|head| head[which * width..(which + 1) * width].to_vec()).collect();
                    (part(0), part(1), part(2))
                }
            };
            let mut query = normed(attention.query_norm.as_ref(), weights, &query);
            let mut key = normed(attention.key_norm.as_ref(), weights, &key);
            if let Some(rotary) = attention.rotary.map(|index| &decoder.rotaries[index]) {
                for head in query.chunks_mut(width).chain(key.chunks_mut(width)) {
                    for (pair, &frequency) in rotary.frequencies(ids.len()).iter().enumerate() {
                        let (sine, cosine) = f64::from(place as f32 * frequency).sin_cos();
                        let (sine, cosine) = (sine * rotary.factor, cosine * rotary.factor);
                        let (x, y) = (head[pair], head[pair + rotary.width / 2]);
                        head[pair] = x * cosine - y * sine;
                        head[pair + rotary.width / 2] = y * cosine + x * sine;
                    }
                }
            }
            queries.push(query);
            keys.push(key);
            values.push(value);
        }
        for (place, state) in states.iter_mut().enumerate() {
            let first = attention.window.map_or(0, |window| (place + 1).saturating_sub(window));
            let mut attended = Vec::new();
            for (head, query) in queries[place].chunks(width).enumerate() {
                let shared = decoder.heads.shared(head) * width;
                let score = |key: &Vec<f64>| {
                    let score = f64::from(attention.scale) * query.iter().zip(&key[shared..]).map(|(q, k)| q * k).sum::<f64>();
                    attention.cap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
                };
                let scores: Vec<f64> = keys[first..=place].iter().map(score).collect();
                let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let powers: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
                let sum: f64 = powers.iter().sum();
                let seen = &values[first..=place];
                attended.extend((0..width).map(|i| powers.iter().zip(seen).map(|(p, value)| p * value[shared + i]).sum::<f64>() / sum));
            }
            let join = |state: &[f64], mut branch: Vec<f64>, norm: Option<&Norm>| -> Vec<f64> {
                branch.iter_mut().for_each(|value| *value *= f64::from(decoder.branch_scale));
                let add = |branch: &[f64]| state.iter().zip(branch).map(|(x, y)| x + y).collect::<Vec<f64>>();
                if layer.norm_on_sum { normed(norm, weights, &add(&branch)) } else { add(&normed(norm, weights, &branch)) }
            };
            let after = join(state, dense(&attention.output, weights, &attended), layer.after_attention.as_ref());
            let input = normed(layer.before_mlp.as_ref(), weights, if layer.parallel { &*state } else { &after });
            let active = |gate: Vec<f64>| gate.into_iter().map(|value| layer.activation.exact(value));
            let gated = |gate: Vec<f64>, up: Vec<f64>| active(gate).zip(up).map(|(gate, up)| gate * up).collect();
            let inner: Vec<f64> = match &layer.inner {
                Inner::Plain(linear) => active(dense(linear, weights, &input)).collect(),
                Inner::Gated { gate, up } => gated(dense(gate, weights, &input), dense(up, weights, &input)),
                Inner::Stacked(linear) => {
                    let mut gate = dense(linear, weights, &input);
                    let up = gate.split_off(linear.outputs / 2);
                    gated(gate, up)
                }
            };
            *state = join(&after, dense(&layer.down, weights, &inner), layer.after_mlp.as_ref());
        }
    }
    let logits = |state: &Vec<f64>| {
        let mut output = normed(decoder.final_norm.as_ref(), weights, state);
        if let Some(linear) = &decoder.project_out {
            output = dense(linear, weights, &output);
        }
        output.iter_mut().for_each(|value| *value *= f64::from(decoder.output_scale));
        let mut logits = dense(&decoder.head, weights, &output);
        if let Some(cap) = decoder.logit_cap.map(f64::from) {
            logits.iter_mut().for_each(|logit| *logit = cap * (*logit / cap).tanh());
        }
        logits
    };
    states.iter().flat_map(logits).collect()
}
