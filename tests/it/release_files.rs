//! What is made from the program for packages: man pages and completions.

use std::{fs, path::Path, process::Command};

use crate::harness::relay::{run, stderr};

async fn generate(what: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let output = run(["generate", what, directory.path().to_str().unwrap()]).await;
    assert!(output.status.success(), "{}", stderr(&output));
    directory
}

fn is_there(program: &str) -> bool {
    let there = Command::new("sh").args(["-c", &format!("command -v {program} >/dev/null")]).status();
    there.unwrap().success()
}

/// Runs a checker; fails when it fails or says anything.
#[track_caller]
fn assert_silent(program: &str, arguments: &[&str], file: &Path) {
    let output = Command::new(program).args(arguments).arg(file).output().unwrap();
    let told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && told.is_empty(), "{program} {}: {told}", file.display());
}

#[tokio::test]
async fn each_command_has_a_man_page_that_a_formatter_takes() {
    let directory = generate("man").await;
    let help = run(["--help"]).await;
    let help = String::from_utf8(help.stdout).unwrap();
    let commands = help.split("Commands:").nth(1).unwrap().split("\n\n").next().unwrap();
    let commands: Vec<_> = commands
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    assert!(commands.contains(&"check") && commands.contains(&"update"), "{commands:?}");
    for command in commands {
        let page = directory.path().join(format!("parley-relay-{command}.1"));
        assert!(page.is_file(), "{command}");
    }
    let main = fs::read_to_string(directory.path().join("parley-relay.1")).unwrap();
    assert!(main.contains("\\-\\-domain") && !main.contains("generate"), "{main}");
    assert!(!directory.path().join("parley-relay-generate.1").exists());
    if !is_there("mandoc") {
        println!("skipped: no mandoc to check the pages with");
        return;
    }
    for page in fs::read_dir(directory.path()).unwrap() {
        assert_silent("mandoc", &["-T", "lint", "-W", "warning"], &page.unwrap().path());
    }
}

#[tokio::test]
async fn completions_are_scripts_that_each_shell_takes() {
    let directory = generate("completions").await;
    for (shell, file) in
        [("bash", "parley-relay.bash"), ("zsh", "_parley-relay"), ("fish", "parley-relay.fish")]
    {
        let file = directory.path().join(file);
        assert!(fs::read_to_string(&file).unwrap().contains("explain"), "{shell}");
        if is_there(shell) {
            assert_silent(shell, &["-n"], &file);
        } else {
            println!("skipped: no {shell} to check {} with", file.display());
        }
    }
}
