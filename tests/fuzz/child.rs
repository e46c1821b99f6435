//! The process that reads: it may die of a file.

use std::cell::RefCell;
use std::fs;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, Rlimit, Signal, set_parent_process_death_signal, setrlimit};

use crate::mutate::{Random, damaged};
use crate::targets::{Case, Target, named};

/// First word of a child's command line.
pub(crate) const FLAG: &str = "--child";

/// Address space, bytes.
const MEMORY: u64 = 6 << 30;

thread_local! {
    /// The message of the last panic.
    static SAID: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Reads the files FROM..TO of TARGET in DIR under SEED, and keeps the last of them in KEEP where that is given.
pub(crate) fn run(words: &[String]) {
    let [name, dir, seed, from, to, keep @ ..] = words else { panic!("not a child's words") };
    let number = |text: &String| text.parse::<u64>().expect("a number");
    let limit = Rlimit { current: Some(MEMORY), maximum: Some(MEMORY) };
    setrlimit(Resource::As, limit).expect("a limit on memory");
    set_parent_process_death_signal(Some(Signal::KILL)).expect("an end with the parent");
    std::panic::set_hook(Box::new(|info| {
        let said = info.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        eprintln!("{said}");
        SAID.with_borrow_mut(|last| *last = said);
    }));
    let target = named(name).expect("a target of this program");
    let dir = Path::new(dir);
    let (sound, work) = (dir.join("seeds"), dir.join("work"));
    let files = all_files(&sound);
    let whole: Vec<Vec<u8>> = files.iter().map(|f| read(&sound.join(f))).collect();
    let damage: Vec<usize> = (0..files.len()).filter(|i| (target.damages)(&files[*i])).collect();
    assert!(!damage.is_empty(), "{name} has nothing to damage");
    let _ = fs::remove_dir_all(&work);
    for (file, bytes) in files.iter().zip(&whole) {
        write(&work.join(file), bytes);
    }
    if number(from) == 0 {
        for file in damage.iter().map(|i| work.join(&files[*i])) {
            let said = tried(target, &Case { dir: &work, file: &file, round: 0 });
            assert_eq!(said, "read", "{} before it is damaged", file.display());
        }
    }
    for round in number(from)..number(to) {
        let mut random = Random::new(number(seed).wrapping_mul(1 << 32) ^ round);
        let which = *random.of(&damage);
        let others: Vec<&[u8]> = damage.iter().map(|i| whole[*i].as_slice()).collect();
        let mut bytes = damaged(&mut random, &whole[which], &others);
        if let Some(finish) = target.finish {
            bytes = finish(&mut random, bytes);
        }
        let file = work.join(&files[which]);
        write(&file, &bytes);
        if let [keep] = keep {
            write(&Path::new(keep).join(file.file_name().expect("a file has a name")), &bytes);
        }
        let said = tried(target, &Case { dir: &work, file: &file, round });
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        println!("{} {said}", crate::ticks(&stat).map_or(0, |(_, ticks)| ticks));
        // The reader may have written to any of them.
        for (file, bytes) in files.iter().zip(&whole) {
            write(&work.join(file), bytes);
        }
    }
}

/// Reads one file and says what became of it.
fn tried(target: &Target, case: &Case<'_>) -> String {
    match std::panic::catch_unwind(AssertUnwindSafe(|| (target.read)(case))) {
        Ok(Ok(())) => "read".to_owned(),
        Ok(Err(said)) if said.trim().is_empty() => "fault refused without a word".to_owned(),
        Ok(Err(said)) if said.trim().contains('\n') => {
            format!("fault not one line: {}", said.trim().replace('\n', "\\n"))
        }
        Ok(Err(said)) if said.contains(FAULT) => format!("fault {}", said.trim()),
        Ok(Err(said)) => format!("refused {}", said.trim()),
        Err(_) => format!("fault {}", SAID.with_borrow(Clone::clone)),
    }
}

/// The mark of a command that did not end as commands do.
pub(crate) const FAULT: &str = "did not end as it should";

/// Files below `dir`, relative to it, in order.
fn all_files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![dir.to_owned()];
    while let Some(folder) = left.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of seeds") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                left.push(path);
            } else {
                found.push(path.strip_prefix(dir).expect("below it").to_owned());
            }
        }
    }
    found.sort();
    found
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).expect("a seed can be read")
}

pub(crate) fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().expect("in a folder")).expect("a folder can be made");
    fs::write(path, bytes).expect("a file can be written");
}
