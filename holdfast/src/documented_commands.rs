//! Test of the `holdfast` commands that pages and messages of this repository tell a person to type.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser as _;
use clap::error::ErrorKind;

use crate::Flags;

/// Places that name commands, below the root of the repository.
const PLACES: [&str; 4] = ["README.md", "docs", "safekeeper/src", "walproposer/src"];

fn collect_files(path: &Path, files: &mut Vec<PathBuf>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            collect_files(&entry.unwrap().path(), files);
        }
    } else if path.extension().is_some_and(|extension| extension == "md" || extension == "rs") {
        files.push(path.to_owned());
    }
}

/// Why the program would refuse the command. Text between backticks may leave values out.
fn refusal(command: &str, is_whole: bool) -> Option<String> {
    let command = command.replace(":PORT", ":5454");
    let error = Flags::try_parse_from(command.split_whitespace()).err()?;
    let accepted = match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => true,
        ErrorKind::MissingRequiredArgument => !is_whole,
        _ => false,
    };
    (!accepted).then(|| format!("{command}: {error}"))
}

/// Lines of code blocks are typed as they stand; `holdfast …` between backticks at least has to exist.
fn refusals(text: &str) -> (usize, Vec<String>) {
    let typed = text.lines().map(str::trim).filter(|line| line.starts_with("holdfast "));
    let typed = typed.filter(|line| !line.contains('`')).map(|line| {
        let command = line.split(['|', '#']).next().unwrap_or_default();
        (command.split("   ").next().unwrap_or_default(), true)
    });
    let named = text.lines().flat_map(|line| line.split('`').skip(1).step_by(2));
    let named = named.filter(|words| words.starts_with("holdfast ")).map(|words| (words, false));

    let commands: Vec<_> = typed.chain(named).collect();
    let refused = commands.iter().filter_map(|&(command, is_whole)| refusal(command, is_whole));
    (commands.len(), refused.collect())
}

/// A page and three messages named a command that did not exist: the person on call found out at night.
#[test]
fn documented_commands_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = Vec::new();
    for place in PLACES {
        collect_files(&root.join(place), &mut files);
    }

    let mut found = 0;
    let mut wrong = Vec::new();
    for file in files {
        let (count, refused) = refusals(&fs::read_to_string(&file).unwrap());
        found += count;
        wrong.extend(refused.into_iter().map(|why| format!("{}: {why}", file.display())));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(found >= 5, "only {found} commands were found");
}
