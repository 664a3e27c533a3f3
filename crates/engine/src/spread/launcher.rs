//! Which of how many tasks this process is, as Slurm, torchrun, accelerate or MPI say in the environment, and which GPU of its machine is its own.

use basin_volume::run::shard::Shard;

use crate::error::Error;

/// Where a process of several that were started together finds its number: what is started inside something else first, as `mpirun` is in a job of
/// Slurm, where on other machines one task of Slurm starts several processes. `needs` is another variable without which the numbers mean something
/// else: Slurm sets those of tasks in a batch script too, which is no task.
struct Place {
    name: &'static str,
    index: &'static str,
    count: &'static str,
    needs: Option<&'static str>,
}

const PLACES: [Place; 4] = [
    Place { name: "torchrun or accelerate", index: "RANK", count: "WORLD_SIZE", needs: None },
    Place { name: "Open MPI", index: "OMPI_COMM_WORLD_RANK", count: "OMPI_COMM_WORLD_SIZE", needs: None },
    // srun sets these too where it starts programs of MPI, with the numbers of Slurm.
    Place { name: "MPI", index: "PMI_RANK", count: "PMI_SIZE", needs: None },
    Place { name: "Slurm", index: "SLURM_PROCID", count: "SLURM_NTASKS", needs: Some("SLURM_STEP_ID") },
];

/// Where a process finds its number among those on its machine, as [`PLACES`].
const PLACES_HERE: [(&str, Option<&str>); 4] =
    [("LOCAL_RANK", None), ("OMPI_COMM_WORLD_LOCAL_RANK", None), ("MPI_LOCALRANKID", None), ("SLURM_LOCALID", Some("SLURM_STEP_ID"))];

/// This process among those that compute parts of one job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launcher {
    /// What started them, in words.
    name: String,
    /// Which one this is, from 0.
    pub index: u64,
    /// How many there are.
    pub count: u64,
}

impl Launcher {
    /// This process.
    ///
    /// # Errors
    /// When nothing says which of how many it is.
    pub fn here() -> Result<Self, Error> {
        Self::among(&|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    /// Which one this process is among those on its machine; the first where nothing says so.
    #[must_use]
    pub fn here_on_machine() -> u64 {
        Self::on_machine_among(&|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    /// The same from any environment.
    fn on_machine_among(variable: &dyn Fn(&str) -> Option<String>) -> u64 {
        let places = PLACES_HERE.iter().filter(|(_, needs)| needs.is_none_or(|needs| variable(needs).is_some()));
        places.filter_map(|(name, _)| variable(name)?.parse().ok()).next().unwrap_or(0)
    }

    /// The same from any environment.
    fn among(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let number = |name: &str| -> Result<Option<u64>, Error> {
            variable(name)
                .map(|text| {
                    text.parse().map_err(|_| Error::usage(format!("{name} is '{text}' in the environment: expected a whole number")))
                })
                .transpose()
        };
        let job = match number("SLURM_ARRAY_TASK_ID")? {
            None => None,
            Some(id) => {
                let (first, step) = (number("SLURM_ARRAY_TASK_MIN")?.unwrap_or(0), number("SLURM_ARRAY_TASK_STEP")?.unwrap_or(1).max(1));
                let count = number("SLURM_ARRAY_TASK_COUNT")?.unwrap_or(1);
                let index = id.saturating_sub(first) / step;
                if id < first || (id - first) % step != 0 || index >= count {
                    return Err(Error::usage(format!(
                        "SLURM_ARRAY_TASK_ID={id} is none of {count} ids from {first} on in steps of {step}: submit an array without gaps, such as --array=0-7, or say the part, `shard=3/8`"
                    )));
                }
                Some(Self { name: "a Slurm array".to_owned(), index, count })
            }
        };
        let mut process = None;
        for place in PLACES.iter().filter(|place| place.needs.is_none_or(|needs| variable(needs).is_some())) {
            if let (Some(index), Some(count)) = (number(place.index)?, number(place.count)?) {
                process = Some(Self { name: place.name.to_owned(), index, count });
                break;
            }
        }
        let found = match (job, process) {
            (Some(job), Some(process)) if process.count > 1 => Self {
                name: format!("{} of {}", process.name, job.name),
                index: job.index * process.count + process.index,
                count: job.count * process.count,
            },
            (Some(one), _) | (None, Some(one)) => one,
            (None, None) => {
                let hint = if variable("SLURM_JOB_ID").is_some() {
                    "this is the batch script itself: start the program with `srun` in it, or submit an array"
                } else {
                    "start it with srun, sbatch --array, torchrun or mpirun"
                };
                return Err(Error::usage(format!(
                    "`shard=auto` finds nothing in the environment that says which of how many tasks this is: {hint}, or say the part, `shard=0/8`"
                )));
            }
        };
        found.shard()?;
        Ok(found)
    }

    /// Its part.
    ///
    /// # Errors
    /// When its number is not below that of all.
    pub fn shard(&self) -> Result<Shard, Error> {
        let Self { name, index, count } = self;
        Shard::new(*index, *count).map_err(|_| Error::usage(format!("{name} says that this is task {index} of {count}, from 0")))
    }

    /// Which one it is, in words.
    #[must_use]
    pub fn words(&self) -> String {
        let Self { name, index, count } = self;
        match count {
            1 => format!("{name} started this task alone: it computes everything."),
            _ => format!("Task {index} of {count} (from 0), started by {name}."),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn among(variables: &[(&str, &str)]) -> Result<(u64, u64), String> {
        let find = |name: &str| variables.iter().find(|(found, _)| *found == name).map(|(_, value)| (*value).to_owned());
        Launcher::among(&find).map(|found| (found.index, found.count)).map_err(|error| error.to_string())
    }

    #[test]
    fn every_launcher_is_understood() {
        assert_eq!(among(&[("RANK", "3"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1")]), Ok((3, 8)));
        let task = [("SLURM_JOB_ID", "7"), ("SLURM_STEP_ID", "0"), ("SLURM_PROCID", "5"), ("SLURM_NTASKS", "16")];
        assert_eq!(among(&task), Ok((5, 16)));
        let array =
            [("SLURM_ARRAY_TASK_ID", "7"), ("SLURM_ARRAY_TASK_COUNT", "4"), ("SLURM_ARRAY_TASK_MIN", "1"), ("SLURM_ARRAY_TASK_STEP", "2")];
        assert_eq!(among(&array), Ok((3, 4)));
        // The batch script of an array has the numbers of a task too.
        let script = [("SLURM_PROCID", "0"), ("SLURM_NTASKS", "1")];
        assert_eq!(among(&[&array[..], &script[..]].concat()), Ok((3, 4)));
        // Tasks in every job of an array, and torchrun on every node that srun starts.
        assert_eq!(among(&[&array[..], &task[1..]].concat()), Ok((3 * 16 + 5, 4 * 16)));
        assert_eq!(among(&[&task[..], &[("RANK", "9"), ("WORLD_SIZE", "32")]].concat()), Ok((9, 32)));
        let open_mpi = [("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "2")];
        assert_eq!(among(&open_mpi), Ok((1, 2)));
        assert_eq!(among(&[("PMI_RANK", "1"), ("PMI_SIZE", "2")]), Ok((1, 2)));
        // mpirun in a job of Slurm starts several processes in one task of it.
        let one_task = [("SLURM_JOB_ID", "7"), ("SLURM_STEP_ID", "1"), ("SLURM_PROCID", "1"), ("SLURM_NTASKS", "4")];
        assert_eq!(among(&[&one_task[..], &open_mpi].concat()), Ok((1, 2)));
        assert_eq!(among(&[&one_task[..], &[("PMI_RANK", "5"), ("PMI_SIZE", "8")]].concat()), Ok((5, 8)));
        // An array of such jobs.
        assert_eq!(among(&[&array[..], &one_task[1..], &open_mpi].concat()), Ok((3 * 2 + 1, 4 * 2)));
    }

    #[test]
    fn the_number_on_a_machine_is_known() {
        let here = |variables: &[(&str, &str)]| {
            Launcher::on_machine_among(&|name| variables.iter().find(|(found, _)| *found == name).map(|(_, value)| (*value).to_owned()))
        };
        assert_eq!(here(&[]), 0);
        assert_eq!(here(&[("RANK", "9"), ("LOCAL_RANK", "1"), ("SLURM_STEP_ID", "0"), ("SLURM_LOCALID", "0")]), 1);
        assert_eq!(here(&[("SLURM_STEP_ID", "0"), ("SLURM_LOCALID", "3")]), 3);
        // A batch script is no task.
        assert_eq!(here(&[("SLURM_LOCALID", "3")]), 0);
        assert_eq!(here(&[("OMPI_COMM_WORLD_LOCAL_RANK", "2"), ("SLURM_STEP_ID", "0"), ("SLURM_LOCALID", "0")]), 2);
    }

    #[test]
    fn what_says_nothing_is_refused_in_a_sentence() {
        let error = among(&[]).unwrap_err();
        assert!(error.contains("srun") && error.contains("shard=0/8"), "{error}");
        // A batch script without srun would compute the first part alone.
        let error = among(&[("SLURM_JOB_ID", "7"), ("SLURM_PROCID", "0"), ("SLURM_NTASKS", "8")]).unwrap_err();
        assert!(error.contains("batch script"), "{error}");
        let error = among(&[("RANK", "x"), ("WORLD_SIZE", "8")]).unwrap_err();
        assert!(error.contains("RANK is 'x'"), "{error}");
        let error = among(&[("RANK", "8"), ("WORLD_SIZE", "8")]).unwrap_err();
        assert!(error.contains("task 8 of 8"), "{error}");
        let gaps = [("SLURM_ARRAY_TASK_ID", "7"), ("SLURM_ARRAY_TASK_COUNT", "3"), ("SLURM_ARRAY_TASK_MIN", "1")];
        let error = among(&gaps).unwrap_err();
        assert!(error.contains("without gaps"), "{error}");
    }
}
