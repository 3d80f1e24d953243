//! What is there already: the Python relay, its nginx, Sova's nginx, certbot's certificates.

use super::{CONFIG, INSTALL, SOVA, UNIT, broken_program, key_pair, machine, program, release, served};
use crate::harness::Machine;

const DIRECTORY: &str = "/opt/parley-relay";

/// An nginx that does what matters here: each server of its config has its certificate on its last port with TLS, and
/// other ports are taken.
const NGINX: &str = r#"#!/bin/bash
cd "${2%/*}"
sed 's/#.*//' "$2" | tr -d "\"'" | tr ';{}' '\n\n\n' | {
  while read -r name value rest; do
    case "$name $rest" in
      'listen ssl'*) port=${value##*:} ;;
      listen*) openssl s_server -quiet -nocert -accept "${value##*:}" & ;;
      ssl_certificate\ *) cert=$value ;;
      ssl_certificate_key\ *) openssl s_server -quiet -www -accept "$port" -cert "$cert" -key "$value" & ;;
    esac
  done
  wait
}
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
    older_with(machine, port, &nginx_conf(port, &format!("server_name {name};"), cert, key));
}

/// The same with another nginx.conf, that serves the relay on `port`.
fn older_with(machine: &Machine, port: u16, nginx_conf: &str) {
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
    machine.write(&conf, nginx_conf);
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

const BLOG: &str = "server { listen 10444 ssl; server_name blog.example.org; root /var/www/blog;\n\
    ssl_certificate /srv/blog/cert.pem; ssl_certificate_key /srv/blog/key.pem; }";

/// The relay's server, with what `more` adds to it.
fn chat(more: &str) -> String {
    format!(
        "server {{ listen 10443 ssl http2; {more} ssl_certificate certs/cert.pem; ssl_certificate_key certs/key.pem;\n\
         location / {{ proxy_pass http://127.0.0.1:7861; }} }}"
    )
}

fn http(servers: &[&str]) -> String {
    format!("events {{ worker_connections 1024; }}\nhttp {{\n{}\n}}\n", servers.join("\n"))
}

/// The Python relay behind an nginx.conf that somebody has edited; the fingerprint of the relay's certificate.
fn edited(machine: &Machine, servers: &[&str]) -> String {
    machine.must(&key_pair("/srv/blog", "blog.example.org"));
    let both = "DNS:chat.example.org,DNS:www.example.org";
    machine
        .must(&key_pair("/opt/parley-relay/certs", "chat.example.org").replace("DNS:chat.example.org", both));
    older_with(machine, 10443, &http(servers));
    served(machine, 10443, "chat.example.org")
}

const NAMED: &str = "server_name chat.example.org;";

#[test]
fn of_several_servers_the_one_that_leads_to_the_relay_is_taken_over() {
    let Some(machine) = machine() else { return };
    let fingerprint = edited(&machine, &[BLOG, &chat("server_name chat.example.org www.example.org;")]);
    let text = machine.must(&format!("{INSTALL} --yes --take-over yes 2>&1"));
    let told = text.find("blog.example.org, port 10444").unwrap_or_else(|| panic!("{text}"));
    assert!(told < text.find("Installing").unwrap(), "{text}");
    assert!(text.contains("https://chat.example.org:10443/"), "{text}");
    assert_eq!(served(&machine, 10443, "chat.example.org"), fingerprint);
    assert_eq!(served(&machine, 10443, "www.example.org"), fingerprint);
    let config = machine.read(CONFIG);
    assert!(!config.contains("blog"), "{config}");
    assert!(machine.must("cat /opt/parley-relay/backup/*/nginx.conf").contains("blog.example.org"));
}

#[test]
fn whatever_else_an_nginx_serves_is_told_and_takes_a_clear_yes() {
    let Some(machine) = machine() else { return };
    edited(&machine, &[&chat(NAMED)]);
    machine.write("/opt/parley-relay/sites/shop", "");
    let named = chat(NAMED);
    let nginx = "/etc/systemd/system/parley-relay-nginx.service";
    let away = machine.read(nginx).replace("nginx.conf", "gone.conf");
    for (conf, told) in [
        (http(&[BLOG, &named]), "blog.example.org, port 10444"),
        (
            http(&[&named, "server { server_name shop.example.org; root /var/www; }"]),
            "shop.example.org, port 80",
        ),
        (
            http(&[
                &named,
                "server { listen 8080; server_name old.example.org; return 301 https://$host$request_uri; }",
            ]),
            "old.example.org, port 8080",
        ),
        (
            http(&[&named, "server { listen 80; server_name _; return 301 https://blog.example.org/; }"]),
            "any name, port 80",
        ),
        (http(&[&named, "server { listen 10.0.0.1:8443 ssl; return 200 ok; }"]), "any name, port 8443"),
        (
            http(&[&chat("listen [::]:8443 ssl; server_name chat.example.org;")]),
            "chat.example.org, port 8443",
        ),
        (
            http(&[&chat(
                "server_name chat.example.org; location /wiki { proxy_pass http://127.0.0.1:9000; }",
            )]),
            "chat.example.org, path /wiki (http://127.0.0.1:9000)",
        ),
        (http(&[&named, "include sites/*;"]), "whatever is in /opt/parley-relay/sites/*"),
        (
            http(&[&named]) + "stream { server { listen 853; proxy_pass 127.0.0.1:53; } }\n",
            "stream, port 853",
        ),
        (String::new(), "whatever is in /opt/parley-relay/gone.conf, which cannot be read"),
    ] {
        if conf.is_empty() {
            machine.write(nginx, &away);
        }
        machine.write("/opt/parley-relay/nginx.conf", &conf);
        let files = machine.files();
        let ran = machine.run(&format!("{INSTALL} --yes"));
        assert_eq!(ran.code, Some(1), "{conf}\n{}", ran.text);
        for told in [told, "--take-over yes"] {
            assert!(ran.text.contains(told), "{told}\n{conf}\n{}", ran.text);
        }
        // Nothing is what a person at a terminal says at first.
        let ran = machine.type_in(INSTALL, &["i", ""]);
        assert_eq!(ran.code, Some(1), "{conf}\n{}", ran.text);
        for told in [told, "all the same? They are served no more [y/N]"] {
            assert!(ran.text.contains(told), "{told}\n{conf}\n{}", ran.text);
        }
        machine.assert_files(&files, &conf);
        machine.must(
            "systemctl is-active parley-relay.service && systemctl is-active parley-relay-nginx.service",
        );
    }
}

#[test]
fn a_clear_yes_at_a_terminal_takes_the_place_of_other_sites_too() {
    let Some(machine) = machine() else { return };
    let fingerprint = edited(&machine, &[BLOG, &chat(NAMED)]);
    // Yes, then what is offered: to the last question, that for updates.
    let ran = machine.type_in(INSTALL, &["i", "y", "", "", "", "", "", "", "", "", "", "", "", ""]);
    assert_eq!(ran.code, Some(0), "{}", ran.text);
    assert_eq!(served(&machine, 10443, "chat.example.org"), fingerprint);
    assert_ne!(machine.run("systemctl is-active parley-relay-nginx.service").code, Some(0));
}

#[test]
fn redirects_errors_and_what_comes_with_nginx_are_no_other_sites() {
    let Some(machine) = machine() else { return };
    let conf = "include /etc/nginx/modules-enabled/*.conf; # server { listen 1; }\n\
        include none/*.conf; include mime.types; upstream relay { server 127.0.0.1:7861; }\n\
        log_format main '$remote_addr \"{\" # $request';\n\
        server { listen 80; server_name www.example.org; location / { proxy_pass http://relay; } }\n\
        server { listen 80; listen [::]:80; server_name chat.example.org www.example.org; \
        location /.well-known/acme-challenge/ { root /var/www; } \
        location / { return 301 https://$host$request_uri; } }\n\
        server { if ($host = chat.example.org) { return 301 https://$host$request_uri; } \
        listen 8080; server_name chat.example.org; return 404; }\n\
        server { listen 8081 default_server; server_name _; return 301 https://chat.example.org:10443$request_uri; }\n\
        server { listen 10445 ssl default_server; ssl_reject_handshake on; }\n\
        server { listen [::]:10443 ssl http2; listen 10443 ssl; server_name \"chat.example.org\" www.example.org;\n\
        server_name *.rooms.example.org ~^(a|b)\\. _; ssl_certificate 'certs/cert.pem'; ssl_certificate_key certs/key.pem;\n\
        error_page 497 @plain; location @plain { return 301 https://$host:10443$request_uri; }\n\
        location / { if ($uri ~ \"}\") { return 403; } proxy_pass http://relay; location ~ /x/ { proxy_pass http://relay; } } }";
    machine.write("/opt/parley-relay/mime.types", "");
    let fingerprint = edited(&machine, &[conf]);
    machine.must("until (: </dev/tcp/127.0.0.1/80) 2>/dev/null; do sleep 0.05; done");
    let text = machine.must(&format!("{INSTALL} --yes"));
    assert!(!text.contains("other sites") && !text.contains("goes:"), "{text}");
    assert!(text.contains("nobody serves any more: ~^(a|b)\\. "), "{text}");
    let wanted = "domains = [\"chat.example.org\", \"www.example.org\", \"*.rooms.example.org\"]";
    let config = machine.read(CONFIG);
    assert!(config.contains(wanted), "{config}");
    assert_eq!(served(&machine, 10443, "www.example.org"), fingerprint);
    // That nginx had the port for redirects: it is the relay's now.
    assert!(!text.contains("port 80 is taken"), "{text}");
    machine.must(": </dev/tcp/127.0.0.1/80");
}

#[test]
fn a_wildcard_is_taken_over_where_the_certificate_can_be_for_one() {
    let wanted = "domains = [\"chat.example.org\", \"*.chat.example.org\"]";
    for (conf, kept) in [("authenticator = standalone\n", false), ("authenticator = dns-cloudflare\n", true)]
    {
        let Some(machine) = machine() else { return };
        older_with_certbot(&machine);
        machine.write("/etc/letsencrypt/renewal/chat.example.org.conf", conf);
        machine.must("sed -i 's/server_name /&*.chat.example.org /' /opt/parley-relay/nginx.conf");
        let text = machine.must(&format!("{INSTALL} --yes --http-port 0"));
        assert_eq!(text.contains("nobody serves any more: *.chat.example.org "), !kept, "{text}");
        let config = machine.read(CONFIG);
        assert_eq!(config.contains(wanted), kept, "{config}");
        assert_eq!(config.contains("domains = [\"chat.example.org\"]"), !kept, "{config}");
    }
}

#[test]
fn a_server_is_not_guessed_among_several() {
    let Some(machine) = machine() else { return };
    let elsewhere = chat(NAMED).replace("7861", "9000");
    edited(&machine, &[&elsewhere]);
    machine.write("/opt/parley-relay/nginx.conf", http(&[BLOG, &elsewhere]));
    let files = machine.files();
    let ran = machine.run(&format!("{INSTALL} --yes --take-over yes"));
    assert_eq!(ran.code, Some(1), "{}", ran.text);
    for told in ["blog.example.org, port 10444", "chat.example.org, port 10443", "cannot be told", "--domain"]
    {
        assert!(ran.text.contains(told), "{told}\n{}", ran.text);
    }
    machine.assert_files(&files, &ran.text);
    // The only one that speaks TLS is the relay's, wherever it leads.
    machine.write("/opt/parley-relay/nginx.conf", http(&[&elsewhere]));
    let text = machine.must(&format!("{INSTALL} --yes"));
    assert!(text.contains("https://chat.example.org:10443/"), "{text}");
    // Once the relay has names of its own, nginx need not tell them.
    machine.write("/opt/parley-relay/nginx.conf", http(&[BLOG, &elsewhere]));
    machine.must("systemctl enable parley-relay-nginx.service");
    machine.must(&format!("{INSTALL} --yes --take-over yes"));
    assert!(!machine.has("/run/stub/enabled/parley-relay-nginx.service"));
}

#[test]
fn beside_other_sites_sovas_nginx_is_read_by_the_port_of_sova() {
    let Some(machine) = machine() else { return };
    machine.write("/usr/sbin/nginx", NGINX);
    machine.write("/opt/parley-chat/config.toml", SOVA);
    machine.must(&key_pair("/opt/parley-chat/certs", "chat.example.org"));
    machine.must(&key_pair("/srv/blog", "blog.example.org"));
    let conf = http(&[BLOG, &chat(NAMED).replace("7861", "4000")]);
    machine.write("/opt/parley-chat/nginx.conf", conf);
    let command = "/usr/sbin/nginx -c /opt/parley-chat/nginx.conf -g 'daemon off;'";
    let nginx = "parley-chat-nginx.service";
    let file = format!("/etc/systemd/system/{nginx}");
    machine.write(&file, unit("Parley Chat nginx", "/opt/parley-chat", command));
    start(&machine, &[nginx]);
    let text = machine.must(&format!("{INSTALL} --yes --take-over yes"));
    assert!(text.contains("blog.example.org, port 10444"), "{text}");
    assert!(text.contains("https://chat.example.org:10443/"), "{text}");
    assert_eq!(
        served(&machine, 10443, "chat.example.org"),
        machine.must("openssl x509 -in /opt/parley-chat/certs/cert.pem -noout -fingerprint -sha256")
    );
}
