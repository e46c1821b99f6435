//! The processes that a server has started, wherever they have gone: out of its group, out of its session, or away
//! from a parent that has ended.
//!
//! Three things tell that a process is of a server's family: the mark in its environment, which children inherit; a
//! line of parents up to the server; and, where a process has wiped its environment and lost its parent, that it has
//! become our own child, which the system makes of orphans where we ask for them (`PR_SET_CHILD_SUBREAPER`).

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::process::{Pid, Signal, WaitOptions, getpgrp, kill_process, waitpid};

/// The variable that carries a family's mark.
pub(super) const MARK: &str = "KNEE_SERVER";

/// Asks the system to hand us orphans. On a system without such a call, marks and parents have to
/// do.
pub(super) fn adopt_orphans() {
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
}

/// A mark that no other server's family has.
pub(super) fn mark() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos());
    format!("{}-{count}-{now}", std::process::id())
}

/// A server's family.
#[derive(Debug)]
pub(super) struct Family {
    mark: String,
    server: Pid,
    /// The members that were told to end.
    told: HashSet<Pid>,
}

/// The system's entry of a process.
struct Entry {
    parent: i32,
    group: i32,
    dead: bool,
}

impl Family {
    /// That of the process `server`, the head of its group, started with this mark.
    pub(super) fn new(server: Pid, mark: String) -> Self {
        Self { mark, server, told: HashSet::new() }
    }

    /// Sends `signal` to every member outside the server's group; true if there was one.
    pub(super) fn tell(&mut self, signal: Signal) -> bool {
        let members = self.members();
        for pid in &members {
            // It may have ended since.
            let _ = kill_process(*pid, signal);
        }
        self.told.extend(&members);
        !members.is_empty()
    }

    /// True if a member outside the server's group lives.
    pub(super) fn lives(&mut self) -> bool {
        self.bury();
        !self.members().is_empty()
    }

    /// Takes note of the ends of members that were told to end and have become our children.
    pub(super) fn bury(&mut self) {
        self.told.retain(|pid| matches!(waitpid(Some(*pid), WaitOptions::NOHANG), Ok(None)));
    }

    /// The living members outside the server's group.
    fn members(&self) -> Vec<Pid> {
        let (all, own) = (processes(), std::process::id() as i32);
        let server = self.server.as_raw_nonzero().get();
        let descends = |mut pid: i32| {
            // A line of parents has no circle, but they change while they are read.
            for _ in 0..all.len() {
                match all.get(&pid) {
                    Some(entry) if entry.parent == server => return true,
                    Some(entry) => pid = entry.parent,
                    None => return false,
                }
            }
            false
        };
        let foreign_group = getpgrp().as_raw_nonzero().get();
        let is_member = |pid: i32, entry: &Entry| {
            if pid == own || pid == server || entry.dead || entry.group == server {
                return false;
            }
            match mark_of(pid) {
                Some(mark) => mark == self.mark,
                None => descends(pid) || (entry.parent == own && entry.group != foreign_group),
            }
        };
        let members = all.iter().filter(|(pid, entry)| is_member(**pid, entry));
        members.filter_map(|(pid, _)| Pid::from_raw(*pid)).collect()
    }
}

/// Every process; none where the system does not list them as files.
fn processes() -> HashMap<i32, Entry> {
    let entry = |entry: std::fs::DirEntry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        // The name may have anything in it, spaces and brackets too.
        let mut fields = stat.rsplit_once(") ")?.1.split(' ');
        let dead = matches!(fields.next()?, "Z" | "X");
        let (parent, group) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        Some((pid, Entry { parent, group, dead }))
    };
    let listed = std::fs::read_dir("/proc").into_iter().flatten();
    listed.filter_map(|listed| entry(listed.ok()?)).collect()
}

/// The mark of a process, if it has one and we may see it.
fn mark_of(pid: i32) -> Option<String> {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
    let prefix = format!("{MARK}=");
    let mut words = environment.split(|b| *b == 0);
    let mark = words.find_map(|word| word.strip_prefix(prefix.as_bytes()))?;
    Some(String::from_utf8_lossy(mark).into_owned())
}
