//! What the containers that the program runs in leave it: control groups of Linux, of both versions, nested as a scheduler nests them.

use std::fs;
use std::path::Path;

/// Files of one version of control groups.
struct Files {
    limit: &'static str,
    used: &'static str,
    /// Key in `memory.stat` of the page cache that is given up before anything is killed.
    cache: &'static str,
}

const VERSION_2: Files = Files { limit: "memory.max", used: "memory.current", cache: "inactive_file" };
const VERSION_1: Files = Files { limit: "memory.limit_in_bytes", used: "memory.usage_in_bytes", cache: "total_inactive_file" };

/// Bytes that the groups of this process leave it; none where nothing limits it.
pub(super) fn free() -> Option<u64> {
    free_in(Path::new("/sys/fs/cgroup"), &fs::read_to_string("/proc/self/cgroup").unwrap_or_default())
}

/// The least that any group on the way from the process's own to the root leaves; `groups` is `/proc/self/cgroup`.
fn free_in(root: &Path, groups: &str) -> Option<u64> {
    let mut least = None;
    for line in groups.lines().chain(["0::/"]) {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let (root, files) = if controllers.is_empty() {
            (root.to_owned(), VERSION_2)
        } else if controllers.split(',').any(|name| name == "memory") {
            (root.join("memory"), VERSION_1)
        } else {
            continue;
        };
        // In a namespace the path is not that of the mount: groups that are not there are passed over.
        let own = root.join(path.trim_start_matches('/'));
        let groups = own.ancestors().take_while(|group| group.starts_with(&root));
        least = groups.filter_map(|group| free_of(group, &files)).chain(least).min();
    }
    least
}

/// What is left of one group's limit. Page cache counts as used there, but makes room for whoever needs it.
fn free_of(group: &Path, files: &Files) -> Option<u64> {
    let read = |name: &str| fs::read_to_string(group.join(name)).ok();
    let limit: u64 = read(files.limit)?.trim().parse().ok()?;
    let used: u64 = read(files.used)?.trim().parse().ok()?;
    let cache = read("memory.stat").and_then(|text| {
        let value = text.lines().find_map(|line| line.strip_prefix(files.cache)?.strip_prefix(' '))?;
        value.trim().parse::<u64>().ok()
    });
    Some(limit.saturating_sub(used.saturating_sub(cache.unwrap_or(0))))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEGABYTE: u64 = 1_000_000;

    fn group(path: &Path, files: &Files, (limit, used, cache): (&str, u64, u64)) {
        fs::create_dir_all(path).unwrap();
        fs::write(path.join(files.limit), format!("{limit}\n")).unwrap();
        fs::write(path.join(files.used), format!("{}\n", used * MEGABYTE)).unwrap();
        let other = if files.cache == "inactive_file" { "total_inactive_file" } else { "inactive_file" };
        let stat = format!("anon 1\n{other}x 3\n{} {}\nactive_file 5\n", files.cache, cache * MEGABYTE);
        fs::write(path.join("memory.stat"), stat).unwrap();
    }

    #[test]
    fn page_cache_is_free() {
        let folder = tempfile::tempdir().unwrap();
        group(folder.path(), &VERSION_2, ("2000000000", 1950, 1800));
        assert_eq!(free_in(folder.path(), "0::/\n"), Some(1850 * MEGABYTE));
        // A namespace hides where the group is.
        assert_eq!(free_in(folder.path(), "0::/docker/abc\n"), Some(1850 * MEGABYTE));
    }

    #[test]
    fn the_least_of_nested_groups_counts() {
        let folder = tempfile::tempdir().unwrap();
        group(&folder.path().join("job"), &VERSION_2, ("1000000000", 400, 100));
        group(&folder.path().join("job/step/task"), &VERSION_2, ("max", 300, 0));
        assert_eq!(free_in(folder.path(), "0::/job/step/task\n"), Some(700 * MEGABYTE));
        group(&folder.path().join("job/step"), &VERSION_2, ("500000000", 450, 10));
        assert_eq!(free_in(folder.path(), "0::/job/step/task\n"), Some(60 * MEGABYTE));
        // Another job's group does not.
        assert_eq!(free_in(folder.path(), "0::/other\n"), None);
    }

    #[test]
    fn groups_of_the_first_version_count() {
        let folder = tempfile::tempdir().unwrap();
        group(&folder.path().join("memory/slurm/job"), &VERSION_1, ("800000000", 700, 600));
        group(&folder.path().join("memory"), &VERSION_1, ("9223372036854771712", 700, 600));
        let groups = "11:cpu,cpuacct:/slurm/other\n4:memory:/slurm/job\n0::/user.slice\n";
        assert_eq!(free_in(folder.path(), groups), Some(700 * MEGABYTE));
        assert_eq!(free_in(folder.path(), ""), None);
        // What is used above the limit is no free memory.
        group(&folder.path().join("memory/slurm/job"), &VERSION_1, ("100000000", 700, 0));
        assert_eq!(free_in(folder.path(), groups), Some(0));
    }
}
