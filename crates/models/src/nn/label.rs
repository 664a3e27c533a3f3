//! Single labels under the probabilities of the classes, in `f64`.

/// The softmax of one position's logits.
pub(crate) fn probabilities(logits: &[f64]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logits.iter().map(|logit| (logit - largest).exp()).sum();
    logits.iter().map(|logit| (logit - largest).exp() / sum).collect()
}

/// The label that `draw` in `[0, 1)` stands for: the first class at which the running sum of the probabilities exceeds it. The sum may end just
/// below 1: then the last class is meant.
pub(crate) fn drawn_label(probabilities: &[f64], draw: f64) -> usize {
    let mut sum = 0.0;
    let label = probabilities.iter().position(|q| {
        sum += q;
        sum > draw
    });
    label.unwrap_or(probabilities.len() - 1)
}

/// The gradient of minus the log-probability of a label with respect to the logits, class by class: `q - 1` for the label, without cancellation,
/// and `q` for the others.
pub(crate) fn label_slopes(probabilities: &[f64], label: usize) -> impl Iterator<Item = f64> + '_ {
    let others = probability_of_others(probabilities, label);
    probabilities.iter().enumerate().map(move |(class, &q)| if class == label { -others } else { q })
}

/// Log-probability of a label in nats, and the class of the largest logit.
pub(crate) fn label_log_probability(logits: &[f64], label: usize) -> (f64, usize) {
    let best = (0..logits.len()).fold(0, |best, class| if logits[class] > logits[best] { class } else { best });
    let sum: f64 = logits.iter().map(|logit| (logit - logits[best]).exp()).sum();
    (logits[label] - logits[best] - sum.ln(), best)
}

/// `-scale log p` of the label in nats, and its gradient with respect to the logits.
pub(crate) fn cross_entropy(logits: &[f64], label: usize, scale: f64) -> (f64, Vec<f64>) {
    let (log_p, _) = label_log_probability(logits, label);
    (-scale * log_p, label_slopes(&probabilities(logits), label).map(|slope| scale * slope).collect())
}

/// `1 - q` of a label, without cancellation.
pub(crate) fn probability_of_others(probabilities: &[f64], label: usize) -> f64 {
    probabilities.iter().enumerate().filter(|(class, _)| *class != label).map(|(_, q)| q).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_follow_the_running_sum_and_their_slopes_add_up_to_zero() {
        let q = probabilities(&[0.0, 2f64.ln(), 0.0]);
        assert!(q.iter().zip([0.25, 0.5, 0.25]).all(|(q, exact)| (q - exact).abs() < 1e-15));
        let labels = [0.0, 0.24, 0.26, 0.74, 0.76, 0.999_999].map(|draw| drawn_label(&q, draw));
        assert_eq!(labels, [0, 0, 1, 1, 2, 2]);
        assert_eq!(drawn_label(&[0.5, 0.4], 0.95), 1);
        let slopes: Vec<f64> = label_slopes(&q, 1).collect();
        assert!(slopes.iter().sum::<f64>().abs() < 1e-15 && (slopes[1] + 0.5).abs() < 1e-15);
        // Where the label is all but certain the rest is not lost.
        assert_eq!(probability_of_others(&[1e-30, 1.0], 1), 1e-30);
    }
}
