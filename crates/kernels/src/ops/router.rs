//! Which experts a token goes to.
//!
//! Plain Rust: a few dozen logits per token are too few for SIMD to matter.

/// Chooses the `experts.len()` largest of `logits`, largest first and the lowest index first among equals,
/// and writes their softmax (over the chosen alone) to `weights`.
///
/// `logits` is `[num_experts]`, `experts` and `weights` `[experts_per_token]`.
///
/// # Panics
/// If the lengths of `experts` and `weights` differ, are 0 or exceed the number of logits.
pub fn router_topk(logits: &[f32], experts: &mut [u32], weights: &mut [f32]) {
    let k = experts.len();
    assert!(
        k == weights.len() && 0 < k && k <= logits.len(),
        "top {k} of {}",
        logits.len()
    );
    for rank in 0..k {
        let (chosen, _) = experts.split_at(rank);
        let mut best: Option<usize> = None;
        for (expert, logit) in logits.iter().enumerate() {
            let taken = chosen.contains(&(expert as u32));
            if !taken && best.is_none_or(|best| *logit > logits[best]) {
                best = Some(expert);
            }
        }
        let best = best.expect("fewer than k experts are taken");
        experts[rank] = best as u32;
        weights[rank] = logits[best];
    }
    let max = weights[0];
    let mut sum = 0.0;
    for weight in weights.iter_mut() {
        *weight = (*weight - max).exp();
        sum += *weight;
    }
    for weight in weights.iter_mut() {
        *weight /= sum;
    }
}
