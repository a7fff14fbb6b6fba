//! The commands that are not simply run to their end, each with its reason.
//!
//! The list is short on purpose, and exact: an entry that no page has is an error.

use std::path::Path;

use crate::walk::Walk;

/// What is done with such a command.
#[derive(Clone, Copy)]
pub enum How {
    /// It goes on for ever: it is started, has to print these in their order, and ends with its page.
    GoesOn(&'static [&'static str]),
    /// It cannot be run here, for this reason. This is looked at in its place.
    Instead(&'static str, fn(&mut Walk, &str) -> String),
}

use How::{GoesOn, Instead};

const NO_MANAGER: &str = "systemd is not the first process here";
const NO_DOCKER: &str = "there is no Docker daemon here; tests/dist.rs tries what the images hold";

/// By page (`*`: any) and by how a command begins. The first that fits counts.
pub const SPECIAL: &[(&str, &str, How)] = &[
    ("README.md", "make run", GoesOn(&["agent ", "memory bound: ", "listening on http://"])),
    ("*", "make ", Instead("it takes minutes, and one of them is what runs this", recipe)),
    ("README.md", "curl -N ", GoesOn(&["event: connected\n", "event: replay-complete\n"])),
    ("docs/cli.md", "sidestream tail", GoesOn(&[])),
    ("*", "sidestream serve ", GoesOn(&["listening on http://"])),
    ("*", "sidestream --", GoesOn(&["listening on http://"])),
    ("*", "systemctl ", Instead(NO_MANAGER, manager)),
    ("*", "journalctl ", Instead(NO_MANAGER, journal)),
    ("*", "useradd ", Instead("it changes the machine", user)),
    ("*", "runuser ", Instead("it needs that user, and once a human who logs in", as_the_service)),
    ("*", "docker build ", Instead(NO_DOCKER, image)),
    ("*", "docker run ", Instead(NO_DOCKER, container)),
];

/// How a command of a page is treated, if not as all others.
pub fn special(page: &str, command: &str) -> Option<How> {
    place(page, command).map(|at| SPECIAL[at].2)
}

/// Which entry a command falls under.
pub fn place(page: &str, command: &str) -> Option<usize> {
    SPECIAL
        .iter()
        .position(|(of, start, _)| (*of == "*" || *of == page) && command.starts_with(start))
}

/// A line of the service's unit, with the names of the page replaced as in the command.
fn expect_in_unit(walk: &Walk, line: &str) {
    let unit = walk.named(&crate::page::text("deploy/sidestream.service")).0;
    assert!(unit.lines().any(|own| own == line), "the unit has no {line}");
}

/// `make TARGET`: there is a recipe, and every script that it names is there and can be read.
fn recipe(walk: &mut Walk, command: &str) -> String {
    let target = command.split_whitespace().nth(1).expect("a target");
    let root = env!("CARGO_MANIFEST_DIR");
    let recipe = walk.run(&format!("make -s -n -C '{root}' {target}"));
    let words: Vec<&str> = recipe.split_whitespace().collect();
    assert!(!words.is_empty(), "make {target} does nothing");
    for script in words.iter().filter(|word| word.ends_with(".sh") || word.ends_with(".py")) {
        walk.run(&format!("test -x '{root}/{script}' -o -r '{root}/{script}'"));
        if script.ends_with(".sh") {
            walk.run(&format!("bash -n '{root}/{script}'"));
        }
    }
    String::new()
}

/// `systemctl VERB UNITS`: what can be done to the files of another root directory is done there;
/// for the rest the unit must be there and know the verb.
fn manager(walk: &mut Walk, command: &str) -> String {
    let host = walk.scratch.join("host");
    let words = command.split('#').next().unwrap_or_default();
    for part in words.split("&&") {
        let words: Vec<&str> = part.split_whitespace().filter(|word| *word != "--now").collect();
        let [program, verb, units @ ..] = &words[..] else { panic!("{command}") };
        assert_eq!(*program, "systemctl", "{command}");
        let help = walk.run("systemctl --help");
        let known = help.lines().any(|line| line.split_whitespace().next() == Some(verb));
        assert!(known, "systemctl knows no {verb}");
        for unit in units {
            let unit = if unit.contains('.') { unit } else { &*format!("{unit}.service") };
            let path = format!("{host}/etc/systemd/system/{unit}");
            let text = std::fs::read_to_string(&path)
                .unwrap_or_else(|error| panic!("`{command}`, but {path}: {error}"));
            assert!(*verb != "reload" || text.contains("\nExecReload="), "{unit}");
            if matches!(*verb, "enable" | "disable") {
                walk.run(&format!("systemctl --root='{host}' {verb} {unit}"));
                let wants =
                    format!("find '{host}/etc/systemd/system' -type l -name {unit} | grep -c .");
                let count = walk.run(&format!("{wants} || true"));
                assert_eq!(count.trim() == "0", *verb == "disable", "{command}");
            }
        }
    }
    String::new()
}

/// `journalctl -u UNIT`: it understands the options, and the unit is one of ours.
fn journal(walk: &mut Walk, command: &str) -> String {
    let words = command.split('#').next().unwrap_or_default();
    assert!(words.contains("-u sidestream"), "{command}");
    let empty = walk.scratch.directory("empty-journal");
    let asked = words.replace(" -f", "").trim().to_owned();
    walk.run(&format!("{asked} --directory='{empty}' --no-pager -q || test $? = 1"));
    String::new()
}

/// `useradd`: it has these options, and the unit runs as this user, in this home.
fn user(walk: &mut Walk, command: &str) -> String {
    let help = walk.run("useradd --help");
    let words: Vec<&str> = command.split_whitespace().collect();
    for option in words.iter().filter(|word| word.starts_with("--")) {
        assert!(help.contains(option), "useradd knows no {option}");
    }
    let name = words.last().expect("a name");
    let home = words.iter().position(|word| *word == "--home-dir").expect("a home") + 1;
    expect_in_unit(walk, &format!("User={name}"));
    expect_in_unit(walk, &format!("Environment=HOME={}", words[home]));
    String::new()
}

/// `runuser -u USER -- COMMAND`: the unit's own user. A login of the CLI is in the unit's home; what
/// is a command of ours runs here, as the user that we are.
fn as_the_service(walk: &mut Walk, command: &str) -> String {
    let words: Vec<&str> = command.split_whitespace().collect();
    let ["runuser", "-u", user, "--", inside @ ..] = &words[..] else { panic!("{command}") };
    expect_in_unit(walk, &format!("User={user}"));
    match inside {
        ["env", home, "claude", ..] => {
            expect_in_unit(walk, &format!("Environment={home}"));
            String::new()
        }
        ["sidestream", ..] => walk.run(&inside.join(" ")),
        _ => panic!("{command}"),
    }
}

/// `docker build -f FILE -t NAME .`: the file is this one or there, and all that it copies is made
/// by `make dist`, which stands before it.
fn image(walk: &mut Walk, command: &str) -> String {
    let words: Vec<&str> = command.split_whitespace().collect();
    let ["docker", "build", "-f", file, "-t", name, "."] = words[..] else { panic!("{command}") };
    let recipe = crate::page::text(file);
    assert!(recipe.contains("\nENTRYPOINT [") && recipe.contains("\nCMD ["), "{file}");
    let copied = recipe.lines().filter_map(|line| line.strip_prefix("COPY "));
    for line in copied.filter(|line| !line.starts_with("--from=")) {
        assert!(line.starts_with("dist/sidestream-*-${PLATFORM} "), "COPY {line}");
    }
    std::fs::write(walk.path("work").join(format!("image-{name}")), file).unwrap();
    String::new()
}

/// `docker run OPTIONS NAME COMMAND`: an image of that name was built before, and a command of ours
/// in it runs here as well.
fn container(walk: &mut Walk, command: &str) -> String {
    let command = command.replace("\\\n", " ");
    let words: Vec<&str> =
        command.split('#').next().unwrap_or_default().split_whitespace().collect();
    let images = |word: &&str| Path::new(&walk.path("work")).join(format!("image-{word}")).exists();
    let image = words.iter().position(images).unwrap_or_else(|| panic!("no image in {command}"));
    let inside = &words[image + 1..];
    match inside.first() {
        Some(&"sidestream") => walk.run(&inside.join(" ")),
        Some(&"claude") | None => String::new(), // A human's, and what the image says by itself.
        Some(other) => panic!("{other} is not in the image"),
    }
}
