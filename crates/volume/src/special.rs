//! Small numerical building blocks.

/// `sum_i term(i)` for `i` in `0..count`, in blocks of 4096 with the block sums added pairwise: an order fixed by `count` alone.
pub fn ordered_sum(count: usize, term: impl Fn(usize) -> f64) -> f64 {
    fn pairwise(sums: &[f64]) -> f64 {
        match sums {
            [] => 0.0,
            [one] => *one,
            _ => {
                let (left, right) = sums.split_at(sums.len() / 2);
                pairwise(left) + pairwise(right)
            }
        }
    }
    const BLOCK: usize = 4096;
    let sums: Vec<f64> = (0..count.div_ceil(BLOCK)).map(|block| (block * BLOCK..count.min((block + 1) * BLOCK)).map(&term).sum()).collect();
    pairwise(&sums)
}
