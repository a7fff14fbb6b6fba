//! What the kernel says about processes, read from `/proc` for one look at the metrics.
//!
//! A sum over processes that come and go is a snapshot; what has ended is in the CPU time of
//! whoever waited for it. Where there is no `/proc`, nothing is said.

use std::fs;

use super::{process, sys};
use crate::base::arena::Key;
use crate::core::metrics::{AgentUse, OwnUse, Sample};

/// Reads what there is. `agents`: the process of each.
pub fn take(agents: &[(Key, u32)]) -> Sample {
    let Some(own) = Stat::of("self") else { return Sample::default() };
    let (ticks, page) = (sys::clock_ticks(), sys::page_size());
    let seconds = |count: u64| count as f64 / ticks as f64;
    let mut children_ticks = own.waited_ticks;
    let mut uses: Vec<AgentUse> = agents.iter().map(|(key, _)| AgentUse::new(Some(*key))).collect();
    uses.push(AgentUse::new(None)); // What lost its parents.
    let stats: Vec<(u32, Stat)> = process::descendants()
        .into_iter()
        .filter_map(|pid| Some((pid, Stat::of(&pid.to_string())?)))
        .collect();
    for (pid, stat) in &stats {
        let parent =
            |pid: &u32| stats.iter().find(|(other, _)| other == pid).map(|(_, stat)| stat.parent);
        let mut line = std::iter::successors(Some(*pid), parent).take(stats.len() + 1);
        let of = line.find_map(|pid| agents.iter().position(|(_, agent)| *agent == pid));
        let of = of.unwrap_or(agents.len());
        uses[of].processes += 1;
        uses[of].resident_size += stat.resident_pages * page;
        children_ticks += stat.own_ticks + stat.waited_ticks;
    }
    Sample {
        own: Some(OwnUse {
            cpu_s: seconds(own.own_ticks),
            resident_size: own.resident_pages * page,
            virtual_size: own.virtual_size,
            open_files: fs::read_dir("/proc/self/fd").map_or(0, |files| files.count() as u64),
            open_files_max: sys::nofile().map_or(0, |(soft, _)| soft),
        }),
        agents: uses,
        agents_cpu_s: seconds(children_ticks),
    }
}

/// Of `/proc/PID/stat` (proc_pid_stat(5)) what is wanted here.
struct Stat {
    parent: u32,
    /// CPU time, user and system.
    own_ticks: u64,
    /// That of ended children that it waited for.
    waited_ticks: u64,
    virtual_size: u64,
    resident_pages: u64,
}

impl Stat {
    fn of(pid: &str) -> Option<Stat> {
        Stat::read(&fs::read(format!("/proc/{pid}/stat")).ok()?)
    }

    fn read(text: &[u8]) -> Option<Stat> {
        // pid (name) state parent …, and the name may hold spaces and parentheses.
        let name_end = memchr::memrchr(b')', text)?;
        let rest = std::str::from_utf8(&text[name_end + 1..]).ok()?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // The manual counts from 1, and the first here is the third there.
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        Some(Stat {
            parent: u32::try_from(number(4)?).ok()?,
            own_ticks: number(14)? + number(15)?,
            waited_ticks: number(16)? + number(17)?,
            virtual_size: number(23)?,
            resident_pages: number(24)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read_whatever_the_process_calls_itself() {
        let line = b"7 (a ) S 1 (b) R 42 7 7 0 -1 4194304 90 0 0 0 10 20 30 40 20 0 1 0 999 \
            8192000 250 18446744073709551615 1 1";
        let stat = Stat::read(line).unwrap();
        assert_eq!((stat.parent, stat.own_ticks, stat.waited_ticks), (42, 30, 70));
        assert_eq!((stat.virtual_size, stat.resident_pages), (8_192_000, 250));
        assert!(Stat::read(b"7 (a) R 42").is_none() && Stat::read(b"").is_none());
    }

    #[test]
    fn we_and_our_children_are_seen() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let key = Key { kind: 3, generation: 0, index: 0 };
        let sample = take(&[(key, child.id())]);
        child.kill().unwrap();
        child.wait().unwrap();
        let own = sample.own.unwrap();
        assert!(own.resident_size > 100_000 && own.virtual_size > own.resident_size);
        assert!(own.open_files >= 3 && own.open_files_max >= own.open_files);
        let agent = &sample.agents[0];
        assert_eq!((agent.agent, agent.processes), (Some(key), 1));
    }
}
