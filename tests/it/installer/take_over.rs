//! What is there already: the Python relay, its nginx, Sova's nginx, certbot's certificates.

use super::{CONFIG, INSTALL, SOVA, UNIT, broken_program, key_pair, machine, program, release, served};
use crate::harness::Machine;

const DIRECTORY: &str = "/opt/parley-relay";

/// An nginx that does what matters here: it serves the certificate of its config on the port of its config.
const NGINX: &str = r#"#!/bin/bash
value() { sed -n "s/^ *$1 \([^ ;]*\).*/\1/p" "$conf" | head -n 1; }
conf=$2
exec openssl s_server -quiet -www -accept "$(value listen)" \
  -cert "$(value ssl_certificate)" -key "$(value ssl_certificate_key)"
"#;

fn unit(description: &str, directory: &str, command: &str) -> String {
    format!(
        "[Unit]\nDescription={description}\nAfter=network.target\n\n[Service]\nType=simple\n\
         WorkingDirectory={directory}\nExecStart={command}\nRestart=always\nRestartSec=5\n\n[Install]\n\
         WantedBy=multi-user.target\n"
    )
}

fn nginx_conf(port: u16, name: &str, cert: &str, key: &str) -> String {
    format!(
        "events {{\n    worker_connections 1024;\n}}\n\nhttp {{\n    server {{\n        listen {port} ssl http2;\n        \
         {name}\n        ssl_certificate {cert};\n        ssl_certificate_key {key};\n        \
         location / {{\n            proxy_pass http://127.0.0.1:7861;\n        }}\n    }}\n}}\n"
    )
}

fn start(machine: &Machine, units: &[&str]) {
    for unit in units {
        machine.must(&format!("systemctl enable {unit} && systemctl start {unit}"));
    }
    machine.must("rm /run/stub/log");
}

/// The Python relay and its nginx, as their installer leaves them.
fn older(machine: &Machine, name: &str, port: u16, cert: &str, key: &str) {
    machine.write("/usr/sbin/nginx", NGINX);
    machine.write("/usr/bin/python3", "#!/bin/bash\nexec sleep infinity\n");
    machine.write(&format!("{DIRECTORY}/main.py"), "");
    machine.write(
        &format!("{DIRECTORY}/config.toml"),
        "version=1\n\nuri_prefix=\"abcdefghij0123456789\"\n\n[server]\n    host=\"127.0.0.1\"\n    port=7861\n    \
         threads=16\n    max_content_length=67108864\n\n[backend]\n    url=\"http://127.0.0.1:4000\"\n\n\
         [upstream_proxy]\n    enabled=false\n    url=\"\"\n\n[frontend]\n    mode=\"serve\"\n    \
         directory=\"/opt/parley-relay/mura\"\n    url=\"\"\n\n# Nobody calls here.\n[[paths]]\n    \
         prefix=\"/api/v1/channel/*/call\"\n    action=\"block\"\n\n[[paths]]\n    prefix=\"/api/v1\"\n    \
         action=\"proxy\"\n",
    );
    let conf = format!("{DIRECTORY}/nginx.conf");
    machine.write(&conf, nginx_conf(port, &format!("server_name {name};"), cert, key));
    machine.write(UNIT, unit("Parley Chat Relay", DIRECTORY, &format!("python3 {DIRECTORY}/main.py")));
    let command = format!("/usr/sbin/nginx -c {conf} -g 'daemon off;'");
    let nginx = "/etc/systemd/system/parley-relay-nginx.service";
    machine.write(nginx, unit("Parley Chat Relay nginx", DIRECTORY, &command));
    start(machine, &["parley-relay.service", "parley-relay-nginx.service"]);
    machine.must(&format!(
        "until openssl s_client -connect 127.0.0.1:{port} </dev/null >/dev/null 2>&1; do sleep 0.05; done"
    ));
}

#[test]
fn the_python_relay_and_its_nginx_are_taken_over_with_config_and_certificate() {
    let Some(machine) = machine() else { return };
    machine.must(&key_pair("/opt/parley-relay/certs", "chat.example.org"));
    let (cert, key) = ("/opt/parley-relay/certs/cert.pem", "/opt/parley-relay/certs/key.pem");
    older(&machine, "chat.example.org", 10443, cert, key);
    let fingerprint = served(&machine, 10443, "chat.example.org");
    let text = machine.must(&format!("{INSTALL} --yes"));
    assert!(text.contains("https://chat.example.org:10443/abcdefghij0123456789/"), "{text}");
    // Whoever had made an exception for the old certificate sees no warning.
    assert_eq!(served(&machine, 10443, "chat.example.org"), fingerprint);
    let config = machine.read(CONFIG);
    for line in ["# Nobody calls here.", "prefix=\"/api/v1/channel/*/call\"", "url=\"http://127.0.0.1:4000\""]
    {
        assert!(config.contains(line), "{line}\n{config}");
    }
    assert!(!config.contains("7861"), "{config}");
    assert!(!machine.has("/run/stub/enabled/parley-relay-nginx.service"));
    assert_ne!(machine.run("systemctl is-active parley-relay-nginx.service").code, Some(0));
    assert!(machine.read(UNIT).contains("Type=notify"));
    let backup = machine.must("cd /opt/parley-relay/backup/*/ && ls");
    assert_eq!(
        backup.lines().collect::<Vec<_>>(),
        [
            "cert.pem",
            "config.toml",
            "key.pem",
            "nginx.conf",
            "parley-relay-nginx.service",
            "parley-relay.service"
        ]
    );
    assert_eq!(machine.must("stat -c %a /opt/parley-relay/backup/*/"), "700\n");
    assert!(machine.has("/opt/parley-relay/main.py"));
}

#[test]
fn a_relay_that_does_not_answer_gives_the_place_back() {
    let Some(machine) = machine() else { return };
    machine.must(&key_pair("/opt/parley-relay/certs", "chat.example.org"));
    let (cert, key) = ("/opt/parley-relay/certs/cert.pem", "/opt/parley-relay/certs/key.pem");
    older(&machine, "chat.example.org", 10443, cert, key);
    let (files, fingerprint) = (machine.files(), served(&machine, 10443, "chat.example.org"));
    machine.copy(program(), "/srv/good");
    machine.must("chmod 755 /srv/good");
    release(&machine, broken_program().as_bytes());
    let ran = machine.run(&format!("{INSTALL} --yes --wait 2"));
    assert!(ran.code == Some(1) && ran.text.contains("as it was before"), "{}", ran.text);
    let log = machine.read("/run/stub/log");
    assert!(log.contains("stop parley-relay-nginx.service"), "it was never tried: {log}");
    machine.assert_files(&files, &ran.text);
    assert_ne!(machine.run("id parley-relay").code, Some(0));
    for unit in ["parley-relay.service", "parley-relay-nginx.service"] {
        machine.must(&format!("systemctl is-active {unit} && systemctl is-enabled {unit}"));
    }
    machine.must(
        "until openssl s_client -connect 127.0.0.1:10443 </dev/null >/dev/null 2>&1; do sleep 0.05; done",
    );
    assert_eq!(served(&machine, 10443, "chat.example.org"), fingerprint);
}

/// The Python relay and its nginx, with a certificate that certbot has had.
pub(super) fn older_with_certbot(machine: &Machine) {
    let live = "/etc/letsencrypt/live/chat.example.org";
    machine.must(&key_pair("/etc/letsencrypt/archive/chat.example.org", "chat.example.org"));
    machine.must(&format!(
        "mkdir -p {live} && cd {live} && ln -s ../../archive/chat.example.org/cert.pem fullchain.pem \
         && ln -s ../../archive/chat.example.org/key.pem privkey.pem && chmod 700 /etc/letsencrypt/live"
    ));
    let (cert, key) = (format!("{live}/fullchain.pem"), format!("{live}/privkey.pem"));
    machine.write(
        "/usr/bin/crontab",
        "#!/bin/bash\ncase $1 in -l) cat /var/crontab ;; -) cat >/var/crontab ;; *) cat \"$1\" >/var/crontab ;; esac\n",
    );
    let renew =
        "0 0,12 * * * /usr/bin/certbot renew --deploy-hook \"systemctl restart parley-relay-nginx\"\n";
    machine.write("/var/crontab", format!("{CRONTAB}{renew}"));
    older(machine, "chat.example.org", 443, &cert, &key);
}

/// Of somebody else.
const CRONTAB: &str = "5 4 * * * /usr/bin/true\n";

#[test]
fn certbots_certificate_by_dns_is_one_by_dns_here_too() {
    let renewal = "/etc/letsencrypt/renewal/chat.example.org.conf";
    for (conf, mode, hook, by_hand) in [
        ("authenticator = standalone\n", 0o755, "", false),
        ("authenticator = manual\npref_challs = dns-01,\n", 0o755, "", true),
        ("authenticator = dns-cloudflare\n", 0o755, "", true),
        (
            "authenticator = manual\npref_challs = dns-01,\nmanual_auth_hook = /srv/set\n",
            0o755,
            "/srv/set",
            false,
        ),
        // What only root can run is of no use to the relay.
        ("authenticator = manual\npref_challs = dns-01,\nmanual_auth_hook = /srv/set\n", 0o700, "", true),
    ] {
        let Some(machine) = machine() else { return };
        older_with_certbot(&machine);
        machine
            .write(renewal, format!("version = 2.1.0\n[renewalparams]\nserver = https://ca.example\n{conf}"));
        machine.write("/srv/set", "#!/bin/sh\n");
        machine.must(&format!("chmod {mode:o} /srv/set"));
        let fingerprint = served(&machine, 443, "chat.example.org");
        let text = machine.must(&format!("{INSTALL} --yes --http-port 0"));
        assert!(text.contains("is taken over"), "{conf}\n{text}");
        assert_eq!(text.contains("cert issue chat.example.org --dns-manual"), by_hand, "{conf}\n{text}");
        // It is there already.
        assert!(!text.contains("has to be set by hand"), "{conf}\n{text}");
        let config = machine.read(CONFIG);
        assert!(config.contains("mode = \"acme\""), "{conf}\n{config}");
        assert_eq!(config.contains(&format!("hook = \"{hook}\"")), !hook.is_empty(), "{conf}\n{config}");
        assert_eq!(served(&machine, 443, "chat.example.org"), fingerprint);
    }
}

#[test]
fn certbots_certificate_is_imported_and_its_crontab_line_goes() {
    let Some(machine) = machine() else { return };
    older_with_certbot(&machine);
    let fingerprint = served(&machine, 443, "chat.example.org");
    let text = machine.must(&format!("{INSTALL} --yes --http-port 0 --email a@example.org"));
    assert!(text.contains("is taken over"), "{text}");
    assert_eq!(served(&machine, 443, "chat.example.org"), fingerprint);
    let config = machine.read(CONFIG);
    assert!(config.contains("mode = \"acme\"") && config.contains("email = \"a@example.org\""), "{config}");
    assert_eq!(machine.read("/var/crontab"), CRONTAB);
    assert!(machine.must("cat /opt/parley-relay/backup/*/crontab").contains("certbot renew"));
}

#[test]
fn the_nginx_of_sovas_installer_is_replaced_or_left_alone() {
    for take_over in [true, false] {
        let Some(machine) = machine() else { return };
        machine.write("/usr/sbin/nginx", NGINX);
        machine.write("/opt/parley-chat/config.toml", SOVA);
        machine.must(&key_pair("/opt/parley-chat/certs", "chat.example.org"));
        let (cert, key) = ("/opt/parley-chat/certs/cert.pem", "/opt/parley-chat/certs/key.pem");
        machine.write("/opt/parley-chat/nginx.conf", nginx_conf(20443, "", cert, key));
        let command = "/usr/sbin/nginx -c /opt/parley-chat/nginx.conf -g 'daemon off;'";
        let nginx = "parley-chat-nginx.service";
        machine.write(
            &format!("/etc/systemd/system/{nginx}"),
            unit("Parley Chat nginx", "/opt/parley-chat", command),
        );
        start(&machine, &[nginx]);
        if take_over {
            machine.must(&format!("{INSTALL} --yes"));
            assert_eq!(
                served(&machine, 20443, "chat.example.org"),
                machine.must(&format!("openssl x509 -in {cert} -noout -fingerprint -sha256"))
            );
            assert_ne!(machine.run(&format!("systemctl is-active {nginx}")).code, Some(0));
            let config = machine.read(CONFIG);
            assert!(config.contains("uri_prefix = \"abcdefghij0123456789\""), "{config}");
            assert!(config.contains("mode = \"forward\""), "{config}");
        } else {
            machine.must(&format!("{INSTALL} --yes --take-over no --domain chat.lan"));
            served(&machine, 443, "chat.lan");
            machine.must(&format!("systemctl is-active {nginx} && systemctl is-enabled {nginx}"));
        }
    }
}
