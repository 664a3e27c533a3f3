//! Which indices a worker computes: shard `i/n` takes the indices that are `i` modulo `n`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Shard `index` of `count`, written `index/count`; `0/1` is everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Shard {
    index: u64,
    count: u64,
}

/// A shard that is not of the form `i/n` with `0 <= i < n`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("shard '{0}' is not of the form i/n with i from 0 to n-1, such as 0/4")]
pub struct ShardError(String);

/// All indices.
impl Default for Shard {
    fn default() -> Self {
        Self::ALL
    }
}

impl Shard {
    /// All indices.
    pub const ALL: Self = Self { index: 0, count: 1 };

    /// Shard `index` of `count`.
    ///
    /// # Errors
    /// If there are no more than `index`.
    pub fn new(index: u64, count: u64) -> Result<Self, ShardError> {
        if index < count { Ok(Self { index, count }) } else { Err(ShardError(format!("{index}/{count}"))) }
    }

    /// The indices of this shard below `samples`.
    pub fn indices(self, samples: u64) -> impl Iterator<Item = u64> {
        (self.index..samples).step_by(self.count as usize)
    }

    /// The shard whose indices are those of this one after `units` more were counted before them: index `j` is in it if `units + j` is in
    /// this one. So shards share what is counted through several runs.
    #[must_use]
    pub fn after(self, units: u64) -> Self {
        Self { index: (self.index + self.count - units % self.count) % self.count, count: self.count }
    }

    /// Whether the shard is everything.
    #[must_use]
    pub fn is_all(self) -> bool {
        self.count == 1
    }
}

impl FromStr for Shard {
    type Err = ShardError;

    fn from_str(text: &str) -> Result<Self, ShardError> {
        let error = || ShardError(text.to_owned());
        let (index, count) = text.split_once('/').ok_or_else(error)?;
        let (index, count) = (index.parse().map_err(|_| error())?, count.parse().map_err(|_| error())?);
        Self::new(index, count).map_err(|_| error())
    }
}

impl TryFrom<String> for Shard {
    type Error = ShardError;

    fn try_from(text: String) -> Result<Self, ShardError> {
        text.parse()
    }
}

impl From<Shard> for String {
    fn from(shard: Shard) -> Self {
        shard.to_string()
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_partition_the_indices() {
        let mut all: Vec<u64> = (0..5).flat_map(|i| format!("{i}/5").parse::<Shard>().unwrap().indices(23)).collect();
        all.sort_unstable();
        assert_eq!(all, (0..23).collect::<Vec<_>>());
        assert_eq!("4/5".parse::<Shard>().unwrap().indices(3).count(), 0);
    }

    #[test]
    fn shards_count_through_several_runs() {
        for units in [0, 3, 5, 17] {
            for index in 0..5 {
                let shard: Shard = format!("{index}/5").parse().unwrap();
                let expected: Vec<u64> = (0..20).filter(|j| (units + j) % 5 == index).collect();
                assert_eq!(shard.after(units).indices(20).collect::<Vec<_>>(), expected);
            }
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["3/2", "2/2", "0/0", "-1/2", "1", "a/b", "", "1/2/3"] {
            assert!(text.parse::<Shard>().is_err(), "{text}");
        }
    }
}
