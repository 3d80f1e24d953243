//! What is made from the program for packages: man pages and completions.

use std::{fs, path::Path, process::Command};

use crate::harness::{
    Relay,
    relay::{run, stderr},
};

async fn generate(what: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let arguments = ["generate", what, directory.path().to_str().unwrap()];
    let output = Relay::with_args(arguments).env("SOURCE_DATE_EPOCH", "86400").run().await;
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
    assert!(main.contains(".TH PARLEY-RELAY 1 1970-01-02 \"parley-relay "), "{main}");
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

fn read(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}

#[tokio::test]
async fn the_image_holds_what_is_built_and_starts_it_as_the_command_line_wants() {
    let (image, build) = (read("dist/Containerfile"), read("dist/build.sh"));
    let copied: Vec<_> = image
        .lines()
        .filter(|line| line.starts_with("COPY"))
        .filter_map(|line| {
            line.split_whitespace().find(|word| !word.starts_with("COPY") && !word.starts_with("--"))
        })
        .collect();
    assert_eq!(copied, ["relay-linux-x64", "relay-linux-arm64", "version.txt"]);
    for file in copied {
        assert!(build.contains(file), "dist/build.sh makes no {file}");
    }
    // A default would win over what a builder is asked for by --platform: an image for arm64 with the other program.
    assert!(image.lines().any(|line| line == "ARG TARGETARCH"), "{image}");
    // Words in JSON, after CMD: first the health check's, then those that the entry point gets.
    let commands: Vec<Vec<String>> = image
        .lines()
        .filter_map(|line| line.trim().strip_prefix("CMD "))
        .map(|words| serde_json::from_str(words).unwrap())
        .collect();
    let [health, served] = commands.as_slice() else {
        panic!("{commands:?}");
    };
    assert_eq!(health[0], "/usr/bin/parley-relay");
    assert!(image.contains("ENTRYPOINT [\"/usr/bin/parley-relay\"]"));
    // The arguments are good, and only the file is not there.
    for arguments in [&health[1..], served] {
        let output = run(arguments).await;
        assert_eq!(output.status.code(), Some(78), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains("/etc/parley-relay/config.toml"), "{}", stderr(&output));
    }
}

#[test]
fn what_the_package_is_made_of_is_there_or_made_by_the_build() {
    let manifest: toml::Table = read("Cargo.toml").parse().unwrap();
    let package = &manifest["package"]["metadata"]["deb"];
    let assets = package["assets"].as_array().unwrap();
    for asset in assets {
        let source = asset[0].as_str().unwrap();
        if !source.starts_with("target/") && !source.starts_with("dist/out/") {
            assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(source).is_file(), "{source}");
        }
    }
    for conffile in package["conf-files"].as_array().unwrap() {
        let conffile = conffile.as_str().unwrap().trim_start_matches('/');
        let is_it = |asset: &toml::Value| {
            let (source, target) = (asset[0].as_str().unwrap(), asset[1].as_str().unwrap());
            Path::new(target).join(Path::new(source).file_name().unwrap()) == Path::new(conffile)
        };
        assert!(assets.iter().any(is_it), "no asset is {conffile}");
    }
    for script in ["postinst", "prerm", "postrm"] {
        let script = format!("{}{script}", package["maintainer-scripts"].as_str().unwrap());
        // In the place of this, cargo-deb puts systemd's part.
        assert!(read(&script).contains("\n#DEBHELPER#\n"), "{script}");
    }
}

#[test]
fn what_workflows_use_of_others_is_one_commit_that_nobody_can_exchange() {
    for file in [".github/workflows/ci.yml", ".github/workflows/release.yml"] {
        let text = read(file);
        let used: Vec<_> = text.lines().filter_map(|line| line.split_once("uses: ")).collect();
        assert!(!used.is_empty(), "{file}");
        for (_, action) in used {
            let (pin, version) = action.split_once(" # v").unwrap_or_else(|| panic!("{file}: {action}"));
            let (_, commit) = pin.split_once('@').unwrap();
            let hexadecimal = commit.chars().all(|digit| digit.is_ascii_hexdigit());
            assert!(commit.len() == 40 && hexadecimal && !version.is_empty(), "{file}: {action}");
        }
    }
}

/// Runs the release's signing with a minisign that checks only if it is told to, and gives whether it succeeds.
fn signs(public_key: &str, secret_key: &str, genuine: bool) -> bool {
    let workflow = read(".github/workflows/release.yml");
    let (_, step) = workflow.split_once("- name: Sign\n").unwrap();
    let (_, script) = step.split_once("run: |\n").unwrap();
    let (script, _) = script.split_once("      - name: ").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let verified = if genuine { 0 } else { 1 };
    let stubs =
        format!("sudo() {{ :; }}\nminisign() {{ if [ \"$1\" = -V ]; then return {verified}; fi; }}\n");
    let output = Command::new("bash")
        .args(["-e", "-c", &(stubs + script)])
        .env("MINISIGN_PUBLIC_KEY", public_key)
        .env("MINISIGN_SECRET_KEY", secret_key)
        .env("RUNNER_TEMP", directory.path())
        .env("GITHUB_REF_NAME", "v1.0.0")
        .output()
        .unwrap();
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "the secret key is left behind");
    output.status.success()
}

#[test]
fn a_release_whose_program_asks_for_a_key_is_signed_with_it_or_not_published() {
    assert!(signs("", "", false));
    assert!(!signs("public", "", true));
    assert!(signs("public", "secret", true));
    assert!(!signs("public", "secret", false));
}
