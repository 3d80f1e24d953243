#!/usr/bin/env bash
# Installs, updates, changes and removes the Parley Chat relay. `install.sh --help` tells everything.
#
# All or nothing: new files are written beside the old ones and renamed, old ones are kept until the relay answers,
# and whatever goes wrong before that is undone.
if [ -z "${BASH_VERSION:-}" ]; then
  echo 'error: this is for bash: sudo bash install.sh' >&2
  exit 1
fi
set -euo pipefail
umask 022

readonly BINARY=/usr/local/bin/parley-relay
readonly ETC=/etc/parley-relay
readonly CONFIG=$ETC/config.toml
readonly MANIFEST=$ETC/installed
# What an uninstall has left here, for one with --purge.
readonly REMOVED=$ETC/removed
# What is to be undone: there from before the first change until the relay answers, or all is undone.
readonly UNFINISHED=$ETC/.unfinished
readonly UNITS=/etc/systemd/system
# The mirror and the flags of automatic updates, and the key that releases are checked with.
readonly UPDATE_ENV=$ETC/update.env
readonly UPDATE_KEY=$ETC/update.pub
readonly STORAGE=/var/lib/parley-relay
readonly ACCOUNT=parley-relay
readonly SERVICE=parley-relay.service
readonly TIMER=parley-relay-update.timer
readonly UPDATE_UNITS=(parley-relay-update.service "$TIMER")
# Where systemd keeps the ports. Stopped in this order, none is left that could start the service again.
readonly HTTPS_SOCKET=parley-relay.socket
readonly HTTP_SOCKET=parley-relay-http.socket
readonly SOCKETS=("$HTTP_SOCKET" "$HTTPS_SOCKET")
readonly SOCKET_DROP_IN=parley-relay-socket.conf
readonly LETSENCRYPT=/etc/letsencrypt/live
readonly RELEASES=https://github.com/Parley-Chat/relay/releases/latest/download

mirror=${MIRROR_BASE_URL:-}
mirror=${mirror%/}

usage() {
  cat <<'HELP'
Usage: install.sh [install|update|modify|uninstall|doctor] [options]

Without an action it shows a menu. Without a terminal, or with --yes, nothing is asked: an option that is not given
has the value that the question would have offered.

  install      also takes over from the Python relay, its nginx, and the nginx of Sova's installer
  update       a new program; the config stays
  modify       the same questions again, with the present answers
  uninstall    removes what was installed; config and certificates stay without --purge
  doctor       looks at the relay and all around it, and changes nothing: parley-relay doctor

Answers:
  --domain NAME           domain or IP address that people type; again for more of them
  --prefix SEGMENT        secret first path segment, the same as Sova's; "" for none
  --backend URL           Sova's address                                  [http://127.0.0.1:42836]
  --sova FILE             Sova's config, to read both from                [/opt/parley-chat/config.toml]
  --directory DIR         for the front end's files and for backups       [/opt/parley-relay]
  --port PORT             HTTPS port                                      [443]
  --http-port PORT        port for redirects and ACME, 0 for none         [80, or 0 where it is taken]
  --certificate WORD      auto, acme (Let's Encrypt), dns (Let's Encrypt by a DNS record), self-signed,
                          files, off (plain HTTP, behind another proxy)   [auto]
  --cert FILE --key FILE  certificate and key in PEM, for files
  --email ADDRESS         that Let's Encrypt may write to
  --dns-hook PROGRAM      sets DNS records, for dns; without it you are asked to set them
  --upstream-proxy URL    http://, socks5:// or socks5h:// proxy on the way to Sova; off for none
  --acme-proxy URL        the same on the way to Let's Encrypt; upstream for the one above
  --frontend DIR|URL|off  what answers outside the API
  --updates WHEN          off, hourly, daily, weekly, monthly, or a calendar expression of systemd's
                                                                          [weekly; off with local files]
  --update-time HH:MM     for daily, weekly and monthly                   [04:00]
  --sockets yes|no        have systemd keep the ports: a restart refuses nobody, and the relay needs no
                          capability; never asked                         [as before, or no]
  --take-over yes|no      stop and replace an older relay or nginx        [yes; no where that serves other sites too]
Other users see a command line while it runs: --prefix, --upstream-proxy and --acme-proxy can also come from
PARLEY_RELAY_URI_PREFIX, PARLEY_RELAY_UPSTREAM_PROXY and PARLEY_RELAY_ACME_PROXY in the environment, and --proxy from
PARLEY_RELAY_DOWNLOAD_PROXY.

Options:
  --yes                   ask nothing
  --files DIR             release files that were downloaded before       [beside this script]
  --mirror URL|DIR        where to download from, as MIRROR_BASE_URL, and for updates from then on
                                                                          [as before, or the project's releases]
  --proxy URL             http://, socks5:// or socks5h:// proxy to download through, and for updates from then on;
                          off for none              [as before, or http_proxy and https_proxy of the environment]
  --public-key FILE       minisign key to check SHA256SUMS with, and updates from then on
                                                                          [/etc/parley-relay/update.pub]
  --unverified            take a program that SHA256SUMS does not name
  --any-version           take a release that is older than what is installed
  --plain-http            trust an http:// mirror without a signature
  --replace-units         put our units in the place of those that somebody has edited, which are backed up
  --wait SECONDS          for the relay to answer, before all is undone   [30]
  --purge                 with uninstall: remove config and certificates too
  --help
HELP
}

say() { printf '%s\n' "$*"; }
note() { printf '  %s\n' "$*"; }
warn() { printf 'warning: %s\n' "$*" >&2; }

die() {
  printf 'error: %s\n' "$1" >&2
  shift
  if [ $# -gt 0 ]; then printf '       %s\n' "$@" >&2; fi
  exit 1
}

no_room() { die 'temporary files cannot be written' 'is the disk full?'; }

# --- Answers: flags first, then the terminal, then what is offered -------------------------------------------------

declare -A answer=() given=()
domains=()
action='' assume_yes='' purge='' unverified='' any_version='' plain_http='' replace_units='' files='' public_key='' wait_for=30
sova=/opt/parley-chat/config.toml

read_flags() {
  while [ $# -gt 0 ]; do
    case $1 in
      install | update | modify | uninstall | doctor) action=$1 ;;
      --help | -h)
        usage
        exit 0
        ;;
      --yes | -y) assume_yes=1 ;;
      --purge) purge=1 ;;
      --unverified) unverified=1 ;;
      --any-version) any_version=1 ;;
      --plain-http) plain_http=1 ;;
      --replace-units) replace_units=1 ;;
      --domain | --prefix | --backend | --sova | --directory | --port | --http-port | --certificate | --cert | --key | \
        --email | --dns-hook | --upstream-proxy | --acme-proxy | --frontend | --updates | --update-time | \
        --sockets | --take-over | --files | --mirror | --proxy | --public-key | --wait)
        [ $# -ge 2 ] || usage_error "$1 needs a value"
        take_flag "${1#--}" "$2"
        shift
        ;;
      --*=*)
        local flag=$1
        shift
        set -- "${flag%%=*}" "${flag#*=}" "$@"
        continue
        ;;
      *) usage_error "unknown option $1" ;;
    esac
    shift
  done
  [[ $wait_for =~ ^[1-9][0-9]{0,4}$ ]] || usage_error '--wait is a number of seconds'
  local flag
  for flag in sockets take-over; do
    case ${given[$flag]:-no} in
      yes | no) ;;
      *) usage_error "--$flag is yes or no" ;;
    esac
  done
}

# What is secret can come from the environment too, by the names that `parley-relay init` has for it.
read_secrets() {
  local key name
  for key in prefix:URI_PREFIX upstream-proxy:UPSTREAM_PROXY acme-proxy:ACME_PROXY proxy:DOWNLOAD_PROXY; do
    name=PARLEY_RELAY_${key#*:}
    key=${key%%:*}
    if [ -n "${!name+set}" ] && [ -z "${given[$key]+given}" ]; then given[$key]=${!name}; fi
    # Only what write_config exports is for `init`.
    unset "$name"
  done
}

take_flag() {
  case $1 in
    domain) domains+=("$2") ;;
    sova) sova=$2 ;;
    files) files=$2 ;;
    mirror) mirror=${2%/} ;;
    public-key) public_key=$2 ;;
    wait) wait_for=$2 ;;
    *) given[$1]=$2 ;;
  esac
}

usage_error() {
  printf 'error: %s\n\n' "$1" >&2
  usage >&2
  exit 64
}

# Opens the terminal as descriptor 3: standard input is this script where it came through a pipe.
open_terminal() {
  if [ -n "$assume_yes" ] || [ "$action" = doctor ]; then return; fi
  if [ -t 0 ]; then
    exec 3<&0
  elif ! { exec 3</dev/tty; } 2>/dev/null; then
    die 'there is no terminal to ask on' 'give the answers as options, and --yes; --help lists them'
  fi
}

# prompt TEXT : asks, and puts the line into $reply. The terminal's end is a no to everything.
prompt() {
  printf '%s' "$1"
  if ! IFS= read -r -u 3 reply; then
    say ''
    die 'nothing was answered'
  fi
}

# ask KEY QUESTION DEFAULT : the answer to a question, as answer[KEY].
ask() {
  local key=$1 question=$2 offered=$3 reply=''
  if [ -n "${given[$key]+given}" ]; then
    answer[$key]=${given[$key]}
  elif [ -n "$assume_yes" ]; then
    answer[$key]=$offered
  else
    while :; do
      prompt "$question${offered:+ [$offered]}: "
      reply=${reply:-$offered}
      if fits "$key" "$reply"; then break; fi
    done
    answer[$key]=$reply
  fi
}

# fits KEY ANSWER : whether a person's answer can be meant; says why not. `init` looks closer.
fits() {
  local word
  case $1 in
    domain)
      for word in ${2//,/ }; do
        if [[ $word == */* ]]; then
          say "a name or an address alone, please, such as chat.example.org: not $word"
          return 1
        fi
      done
      ;;
    prefix) [[ $2 =~ ^/?[A-Za-z0-9._~-]*/?$ ]] || { say 'letters, digits, -, ., _ and ~, please; or nothing' && return 1; } ;;
    backend) [[ $2 =~ ^https?:// ]] || { say 'a URL, please, such as http://127.0.0.1:42836' && return 1; } ;;
    directory) [[ $2 == /?* ]] || { say 'a path that begins with /, please' && return 1; } ;;
    port) { [[ $2 =~ ^[0-9]{1,5}$ ]] && [ "$2" -le 65535 ]; } || { say 'a number up to 65535, please' && return 1; } ;;
    upstream-proxy)
      [[ $2 == off || $2 =~ ^(http|socks5h?):// ]] ||
        { say 'a URL that begins with http://, socks5:// or socks5h://, or off, please' && return 1; }
      ;;
  esac
}

# confirm QUESTION yes|no : whether the answer, which is offered, is yes.
confirm() {
  local reply=''
  if [ -z "$assume_yes" ]; then
    case $2 in
      yes) prompt "$1 [Y/n]: " ;;
      *) prompt "$1 [y/N]: " ;;
    esac
  fi
  case ${reply:-$2} in
    [Yy]*) return 0 ;;
    *) return 1 ;;
  esac
}

# choose KEY DEFAULT WORD=TEXT… : a numbered list; the answer is a word.
choose() {
  local key=$1 offered=$2 number=0 reply='' item
  shift 2
  if [ -n "${given[$key]+given}" ]; then
    answer[$key]=${given[$key]}
    return
  fi
  answer[$key]=$offered
  if [ -n "$assume_yes" ]; then return; fi
  for item in "$@"; do
    number=$((number + 1))
    if [ "${item%%=*}" = "$offered" ]; then offered=$number; fi
    say "[$number] ${item#*=}"
  done
  while :; do
    prompt "> [$offered] "
    reply=${reply:-$offered}
    number=0
    for item in "$@"; do
      number=$((number + 1))
      if [ "$reply" = "$number" ] || [ "$reply" = "${item%%=*}" ]; then
        answer[$key]=${item%%=*}
        return
      fi
    done
    # What is offered may be none of the list: it stays what it is.
    if [ "$reply" = "$offered" ]; then return; fi
    say "a number from 1 to $#, please"
  done
}

# --- What is there --------------------------------------------------------------------------------------------------

# toml_value FILE TABLE KEY : a simple value, to be offered as an answer. The relay itself reads the file properly.
toml_value() {
  [ -r "$1" ] || return 0
  awk -v table="$2" -v key="$3" '
    /^[ \t]*\[/ { inside = $0; gsub(/[][ \t\r]|#.*/, "", inside); next }
    inside == table && $0 ~ "^[ \t]*" key "[ \t]*=" {
      sub(/^[^=]*=[ \t]*/, "")
      if ($0 ~ /^"/) { sub(/^"/, ""); sub(/".*/, "") }
      else if ($0 ~ /^\047/) { sub(/^\047/, ""); sub(/\047.*/, "") }
      else { sub(/[ \t]*#.*/, ""); gsub(/[][",\047]/, " "); gsub(/^ +| +$/, ""); gsub(/  +/, " ") }
      print
      exit
    }' "$1"
}

# nginx_serves PORTS FILE… : what nginx configs say, as lines of KEY=VALUE. PORTS are those of what the relay takes the
# place of. The server that speaks TLS and leads there is the relay's, or the only one that speaks TLS where none leads
# there: its conf, port, cert, key and each name are told. `other` is what is served besides, for people; `include`, files
# that may serve more, and are not read; `port80`, that nginx has that port.
nginx_serves() {
  local ports=$1
  shift
  awk -v ports="$ports" '
    function has(list, word) { return index(list " ", " " word " ") > 0 }

    # Of the words of nginx: quotes, comments, and braces and semicolons anywhere in a line.
    function parse(text,   i, c, size, quote, inside, word) {
      size = length(text)
      for (i = 1; i <= size; i++) {
        c = substr(text, i, 1)
        if (quote != "") {
          if (c == "\\") word = word substr(text, ++i, 1)
          else if (c == quote) quote = ""
          else word = word c
        } else if (c == "\\") { word = word c substr(text, ++i, 1); inside = 1 }
        else if (c == "#" && !inside) { while (i < size && substr(text, i, 1) != "\n") i++ }
        else if ((c == "\"" || c == "\047") && !inside) { quote = c; inside = 1 }
        else if (c ~ /[ \t\r\n;]/ || (c == "{" && word !~ /\$$/) || (c == "}" && !inside)) {
          if (inside) words[++count] = word
          word = ""; inside = 0
          if (c == ";") directive()
          else if (c == "{") begin_block()
          else if (c == "}") end_block()
          if (c ~ /[;{}]/) count = 0
        } else { word = word c; inside = 1 }
      }
      depth = server = count = 0
      place = upstream = ""
    }

    function begin_block() {
      block[++depth] = words[1]
      if (depth == 2 && words[1] == "server" && block[1] ~ /^(http|stream|mail)$/) {
        server = ++servers
        family[server] = block[1]; conf[server] = file
      }
      if (server && words[1] == "location" && place == "") { place = words[count]; place_depth = depth }
      if (words[1] == "upstream") upstream = words[2]
    }

    function end_block() {
      if (place != "" && depth == place_depth) place = ""
      if (depth == 2) { server = 0; upstream = "" }
      if (depth > 0) depth--
    }

    function directive() {
      if (upstream != "" && words[1] == "server") members[file, upstream] = members[file, upstream] " " words[2]
      else if (server) of_server()
      else if (words[1] == "include" && depth < 2) print "include=" absolute(words[2])
      else if (depth == 1 && block[1] == "http") {
        if (words[1] == "ssl_certificate" && !((file, "cert") in above)) above[file, "cert"] = absolute(words[2])
        if (words[1] == "ssl_certificate_key" && !((file, "key") in above)) above[file, "key"] = absolute(words[2])
      }
    }

    # nginx takes them from beside its config.
    function absolute(path) {
      if (path ~ /^\// || path ~ /:/) return path
      return directory(file) path
    }

    function directory(path) { sub(/[^\/]*$/, "", path); return path }

    function of_server(   i, name) {
      name = words[1]
      if (name == "listen") listen()
      else if (name == "server_name") { for (i = 2; i <= count; i++) called(tolower(words[i])) }
      else if (name == "ssl" && words[2] == "on") secure[server] = 1
      else if (name == "ssl_reject_handshake" && words[2] == "on") mute[server] = 1
      else if (name == "ssl_certificate" && !(server in cert)) cert[server] = absolute(words[2])
      else if (name == "ssl_certificate_key" && !(server in key)) key[server] = absolute(words[2])
      # The relay answers the CA itself.
      else if (place ~ /^\/\.well-known\/acme-challenge/) return
      else if (name ~ /_pass$/) { content[server] = 1; leads(words[2]) }
      else if (name ~ /^(root|alias|try_files)$/) {
        content[server] = 1
        if (place != "" && name != "try_files" && index(words[2], directory(file)) != 1) beside(server, place, words[2])
      } else if (name == "return") returned(words[2], words[3])
      else if (name == "rewrite" && words[3] ~ /^https?:/) returned(301, words[3])
    }

    function listen(   port, i) {
      listens[server] = 1
      port = words[2]
      if (port ~ /^unix:/) return
      if (port !~ /^[0-9]+$/) {
        if (port ~ /:[0-9]+(-[0-9]+)?$/) { sub(/.*:/, "", port); sub(/-.*/, "", port) } else port = 80
      }
      for (i = 3; i <= count; i++) if (words[i] == "ssl" || words[i] == "quic") {
        if (!has(tls[server], port)) tls[server] = tls[server] " " port
        return
      }
      if (!has(plain[server], port)) plain[server] = plain[server] " " port
    }

    # `.example.org` is two names; `_` and "" are none.
    function called(name) {
      if (name == "" || name == "_") return
      if (name ~ /^\./) { called(substr(name, 2)); name = "*" name }
      if (!has(names[server], name)) names[server] = names[server] " " name
    }

    function leads(target) {
      passes[server, ++pass_count[server]] = target
      pass_place[server, pass_count[server]] = place
    }

    function beside(s, path, target) { elsewhere[s] = elsewhere[s] "\n" path " (" target ")" }

    # An answer of the whole server is there before all that is in its locations.
    function returned(code, target,   whole) {
      if (code !~ /^[0-9]+$/) { target = code; code = 302 }
      whole = depth == 2 && words[1] == "return"
      if (whole) complete[server] = 1
      answers[server] = 1
      if (code ~ /^3/) redirects[server] = redirects[server] " " target
      else if (code !~ /^[45]/) { content[server] = 1; if (whole) body[server] = 1 }
    }

    # leads_to SERVER PORT : whether a location of it passes requests there.
    function leads_to(s, port,   i) {
      for (i = 1; i <= pass_count[s]; i++) if (has(addresses(s, passes[s, i]), port)) return 1
      return 0
    }

    # The ports behind a target of proxy_pass, which may be the name of an upstream.
    function addresses(s, target,   i, n, list, found) {
      sub(/^[a-z]+:\/\//, "", target)
      sub(/[\/?].*/, "", target)
      if (match(target, /.\$/)) target = substr(target, 1, RSTART)
      if ((conf[s], target) in members) target = members[conf[s], target]
      n = split(target, list, " ")
      for (i = 1; i <= n; i++) if (match(list[i], /:[0-9]+$/)) found = found " " substr(list[i], RSTART + 1)
      return found
    }

    function ours(found,   i, n, list) {
      n = split(ports, list, " ")
      for (i = 1; i <= n; i++) if (has(found, list[i])) return 1
      return 0
    }

    function choose(   i, n, s, list, alone, any) {
      n = split(ports, list, " ")
      for (i = 1; i <= n; i++) for (s = 1; s <= servers; s++) if (leads_to(s, list[i])) {
        any = 1
        if (family[s] == "http" && tls[s] != "") { by_port = 1; return s }
      }
      if (any) return 0
      for (s = 1; s <= servers; s++) if (family[s] == "http" && tls[s] != "") alone = alone ? -1 : s
      return alone > 0 ? alone : 0
    }

    function within(list, all,   i, n, words) {
      n = split(list, words, " ")
      for (i = 1; i <= n; i++) if (!has(all, words[i])) return 0
      return 1
    }

    # Whether all that a server has is an error, or the way to what the relay serves; its port 80 leads there too.
    function is_nothing(s, own,   i, n, list, to) {
      if (family[s] != "http") return 0
      if (s in mute) return 1
      if (chosen && tls[s] == "" && plain[s] == " 80" && names[s] != "" && within(names[s], own)) {
        for (i = 1; i <= pass_count[s]; i++) if (!ours(addresses(s, passes[s, i]))) break
        if (i > 1 && i > pass_count[s] && elsewhere[s] == "") return 1
      }
      if ((s in complete) ? (s in body) : (!(s in answers) || (s in content))) return 0
      n = split(redirects[s], list, " ")
      if (n > 0 && !within(names[s], own)) return 0
      for (i = 1; i <= n; i++) {
        to = list[i]
        if (to !~ /^https:\/\//) return 0
        sub(/^https:\/\//, "", to)
        if (to ~ /^\$(host|http_host|server_name)/) continue
        sub(/[\/:$?].*/, "", to)
        if (!has(own, tolower(to))) return 0
      }
      return 1
    }

    function tell(s, list,   i, n, port, text) {
      text = names[s] == "" ? " any name" : names[s]
      if (family[s] != "http") text = " " family[s]
      n = split(list, port, " ")
      for (i = 1; i <= n; i++) text = text (i == 1 ? ", port " : " and ") port[i]
      print "other=" substr(text, 2)
    }

    function tell_chosen(s,   i, n, list, left) {
      n = split(tls[s], list, " ")
      print "conf=" conf[s] "\nport=" list[1]
      print "cert=" ((s in cert) ? cert[s] : above[conf[s], "cert"])
      print "key=" ((s in key) ? key[s] : above[conf[s], "key"])
      for (i = 2; i <= n; i++) left = left " " list[i]
      n = split(plain[s], list, " ")
      for (i = 1; i <= n; i++) if (list[i] != 80) left = left " " list[i]
      if (left != "") tell(s, left)
      n = split(names[s], list, " ")
      for (i = 1; i <= n; i++) print "name=" list[i]
      if (!by_port) return
      for (i = 1; i <= pass_count[s]; i++) {
        if (!ours(addresses(s, passes[s, i]))) beside(s, pass_place[s, i], passes[s, i])
      }
      n = split(elsewhere[s], list, "\n")
      for (i = 2; i <= n; i++) print "other=" (names[s] == "" ? "any name" : substr(names[s], 2)) ", path " list[i]
    }

    FILENAME != file { if (file != "") parse(text); text = ""; file = FILENAME }
    { text = text $0 "\n" }
    END {
      parse(text)
      for (s = 1; s <= servers; s++) {
        if (s in secure) { tls[s] = tls[s] plain[s]; plain[s] = "" }
        if (!(s in listens)) plain[s] = " 80"
        if (has(tls[s] plain[s], 80)) print "port80=yes"
      }
      chosen = choose()
      if (chosen) tell_chosen(chosen)
      for (s = 1; s <= servers; s++) {
        if (s != chosen && !is_nothing(s, chosen ? names[chosen] : "")) tell(s, tls[s] plain[s])
      }
    }' "$@"
}

# unit_value UNIT KEY
unit_value() {
  [ -r "$UNITS/$1" ] || return 0
  sed -n "s/^$2=//p" "$UNITS/$1" | head -n 1
}

# Finds what serves already: sets old_units, old_config, old_port, old_cert, old_key, and old_name to all its names.
old_units=() old_config='' old_port='' old_cert='' old_key='' old_name='' old_directory='' old_nginx=''
old_by_dns='' old_hook=''
# What its nginx serves besides, names of its own that cannot be taken over, and whether it has port 80.
old_others=() old_left_out=() old_port80=''
find_older() {
  local nginx_units=() unit start
  start=$(unit_value "$SERVICE" ExecStart)
  case $start in
    *main.py*)
      old_units+=("$SERVICE")
      old_directory=$(unit_value "$SERVICE" WorkingDirectory)
      [ ! -f "$old_directory/config.toml" ] || old_config=$old_directory/config.toml
      ;;
  esac
  for unit in parley-relay-nginx.service parley-chat-nginx.service; do
    if [ -f "$UNITS/$unit" ] && { is_active "$unit" || is_enabled "$unit" || was_retired "$unit"; }; then
      nginx_units+=("$unit")
    fi
  done
  old_units+=("${nginx_units[@]}")
  [ "${#nginx_units[@]}" -gt 0 ] || return 0
  find_site "${nginx_units[@]}"
  case $old_cert in
    "$LETSENCRYPT"/*)
      if [ -z "$old_name" ]; then
        old_name=${old_cert#"$LETSENCRYPT"/}
        old_name=${old_name%%/*}
      fi
      find_certbots_way
      ;;
  esac
  name_wildcards
  if [ -z "$old_name" ] && [ -n "$old_cert" ] && command -v openssl >/dev/null; then
    old_name=$(openssl x509 -in "$old_cert" -noout -ext subjectAltName 2>/dev/null |
      sed -n 's/.*\(DNS\|IP Address\):\([^, ]*\).*/\2/p' | head -n 1) || old_name=''
  fi
}

# find_site UNIT… : which server of these nginxes is the relay's, and what they serve besides.
old_wildcards=()
find_site() {
  local unit conf line confs=() names=() ports
  for unit in "$@"; do
    conf=$(nginx_conf "$unit")
    if [ -r "$conf" ]; then
      confs+=("$conf")
    else
      old_others+=("whatever is in $conf, which cannot be read ($unit)")
    fi
  done
  [ "${#confs[@]}" -gt 0 ] || return 0
  old_nginx=${confs[0]}
  ports="$(first "$(toml_value "$old_config" server port)" 7861)"
  ports+=" $(first "$(toml_value "$sova" server port)" 42836)"
  while read -r line; do
    case $line in
      conf=*) old_nginx=${line#*=} ;;
      port=*) old_port=${line#*=} ;;
      cert=*) old_cert=${line#*=} ;;
      key=*) old_key=${line#*=} ;;
      port80=*) if is_active "$1"; then old_port80=yes; fi ;;
      other=*) old_others+=("${line#*=}") ;;
      include=*) find_included "${line#*=}" ;;
      name=\*.*) old_wildcards+=("${line#*=}") ;;
      name=*[~*$]*) old_left_out+=("${line#*=}") ;;
      name=*) names+=("${line#*=}") ;;
    esac
  done < <(nginx_serves "$ports" "${confs[@]}")
  old_name=${names[*]}
}

# nginx_conf UNIT : the config that it runs with.
nginx_conf() {
  local conf
  conf=$(unit_value "$1" ExecStart | sed -n "s/.* -c *[\"']\{0,1\}\([^ \"']*\).*/\1/p")
  say "${conf:-/etc/nginx/nginx.conf}"
}

# find_included PATTERN : what may be served from files that nginx includes; those that come with it serve nothing.
find_included() {
  case $1 in
    */mime.types | */fastcgi_params | */fastcgi.conf | */scgi_params | */uwsgi_params | */proxy_params) return ;;
    */koi-utf | */koi-win | */win-utf | */modules-enabled/\*.conf | */nginx/modules/\*.conf) return ;;
  esac
  if compgen -G "$1" >/dev/null; then old_others+=("whatever is in $1"); fi
}

# A wildcard is a name for the relay where its certificate can be for one: from files, or by the DNS. They come last:
# the first name is the one that people are told.
name_wildcards() {
  local names=()
  read -r -a names <<<"$old_name"
  case ${given[certificate]:-${given[cert]:+files}} in
    files | dns) names+=("${old_wildcards[@]}") ;;
    '')
      if [ -n "$old_by_dns" ] || { [ -n "$old_cert" ] && [[ $old_cert != "$LETSENCRYPT"/* ]]; }; then
        names+=("${old_wildcards[@]}")
      else
        old_left_out+=("${old_wildcards[@]}")
      fi
      ;;
    *) old_left_out+=("${old_wildcards[@]}") ;;
  esac
  old_name=${names[*]}
}

# By what certbot showed that the name is ours: where that was the DNS, the ports may not be open to the CA.
find_certbots_way() {
  local lineage=${old_cert#"$LETSENCRYPT"/} renewal
  renewal=${LETSENCRYPT%/*}/renewal/${lineage%%/*}.conf
  grep -qs '^\(pref_challs *=.*dns-01\|authenticator *= *dns\)' "$renewal" || return 0
  old_by_dns=1
  # The relay's hook is told what certbot's is. One that root alone can run is of no use to it.
  old_hook=$(sed -n 's/^manual_auth_hook *= *//p' "$renewal" | head -n 1)
  [ -f "$old_hook" ] && [ $((0$(stat -c %a "$old_hook") & 001)) != 0 ] || old_hook=''
}

is_active() { systemctl is-active --quiet "$1" 2>/dev/null; }
is_enabled() { systemctl is-enabled --quiet "$1" 2>/dev/null; }

# Whether the relay of this script is there, whatever runs.
is_installed() { [ -f "$MANIFEST" ]; }

# Whether dpkg has put a relay here.
is_packaged() { dpkg -S /usr/bin/parley-relay >/dev/null 2>&1; }

refuse_packaged() {
  is_packaged || return 0
  if is_installed; then
    die 'two relays are here: one of this script, and one of a Debian package' \
      'uninstall removes the one of this script, and leaves the package its config'
  fi
  die 'the relay is installed as a Debian package' 'apt updates and removes it; parley-relay init writes its config'
}

# One run at a time, and none beside `parley-relay update`, which locks the same directory. It ends with this process.
lock() {
  [ -d "${BINARY%/*}" ] && command -v flock >/dev/null || return 0
  exec 9<"${BINARY%/*}"
  flock --nonblock 9 ||
    die 'another run of this script or of parley-relay update is at work' 'nothing has been changed; try again when it has ended'
}

# is_local NAME : whether no public CA vouches for it.
is_local() {
  case $1 in
    *:* | localhost | *.localhost | *.local | *.lan | *.home.arpa | *.internal) return 0 ;;
    *.test | *.example | *.invalid | *.onion) return 0 ;;
    *.*) [[ $1 =~ ^[0-9.]+$ ]] ;;
    *) return 0 ;;
  esac
}

# is_listening PORT : whether a TCP socket of this machine does.
is_listening() {
  local hex
  hex=$(printf ':%04X' "$1")
  cat /proc/net/tcp /proc/net/tcp6 2>/dev/null |
    awk -v port="$hex" '$4 == "0A" && substr($2, length($2) - 4) == port { found = 1 } END { exit !found }'
}

architecture() {
  case $(uname -m) in
    x86_64 | amd64) say x64 ;;
    aarch64 | arm64) say arm64 ;;
    *) die "there is no program for this machine: $(uname -m)" 'there is one for x86-64 and one for 64-bit ARM' ;;
  esac
}

# --- Undoing ---------------------------------------------------------------------------------------------------------

# What is to be undone, oldest first: `restore FILE`, `remove FILE`, `rmdir DIR`, `rmtree DIR`, `account`,
# `crontab FILE`, `disable UNIT`, `unit NAME was-active was-enabled`. Each can be undone twice, or without having been done.
undo=()
# The same of a run that was cut off, until this one takes it up.
earlier=()
work='' placed=() changed='' service_touched='' taken=() sockets=() closing=()

kept() { printf '%s/.%s.parley-old' "$(dirname "$1")" "$(basename "$1")"; }
staged() { printf '%s/.%s.parley-new' "$(dirname "$1")" "$(basename "$1")"; }

# remember ENTRY : before what it undoes, and on the disk: after a kill or a power cut the next run knows.
remember() {
  local entries=("$1")
  if [ ! -d "$ETC" ]; then
    entries=("rmdir $ETC" "$1")
    mkdir -p "$ETC" || die "$ETC cannot be made"
  fi
  undo+=("${entries[@]}")
  if ! { printf '%s\n' "${entries[@]}" >>"$UNFINISHED" && sync "$UNFINISHED" "$ETC"; }; then
    die "$UNFINISHED cannot be written" 'is the disk full?'
  fi
}

# Makes a directory, and remembers to remove it.
make_directory() {
  local missing=$1 made=()
  while [ ! -d "$missing" ]; do
    made=("$missing" "${made[@]}")
    missing=$(dirname "$missing")
  done
  [ "${#made[@]}" -gt 0 ] || return 0
  for missing in "${made[@]}"; do
    remember "rmdir $missing"
    mkdir -p "$missing" || die "$missing cannot be made"
  done
}

# place FILE MODE GROUP : puts the staged file in place of FILE, whose old contents are kept. One that says the same
# changes nothing.
place() {
  local file=$1 mode=$2 group=$3 new
  new=$(staged "$file")
  placed+=("$file")
  if ! { chmod "$mode" "$new" && chown "root:$group" "$new"; }; then die "$new cannot be given to $group"; fi
  if cmp -s "$new" "$file" && [ "$(stat -c %a "$file")" = "$mode" ]; then
    rm -f "$new"
    return 0
  fi
  changed=1
  keep "$file"
  # After a power cut it is either of them, and not empty.
  sync "$new" || die "$new cannot be written" 'is the disk full?'
  mv -f "$new" "$file" || die "$file cannot be written"
}

# keep FILE : so that it can be undone. What a run that was cut off has kept is not kept anew: it is what worked last.
keep() {
  if [ -e "$(kept "$1")" ]; then return; fi
  if [ -e "$1" ]; then
    remember "restore $1"
    # A second name, which takes no space; what is replaced is a name, never contents.
    ln "$1" "$(kept "$1")" || die "$1 cannot be kept"
  else
    remember "remove $1"
  fi
}

# What has been kept and is of no use any more.
leftovers() {
  local directory old
  for directory in "${BINARY%/*}" "$ETC" "$ETC/tls" "$UNITS" "$UNITS/$SERVICE.d" "$UNITS/$TIMER.d"; do
    for old in "$directory"/.*.parley-old; do
      if [ -f "$old" ]; then say "$old"; fi
    done
  done
}

# Whether a run before this one was killed, or the power went; finds what is to be undone of it.
find_unfinished() {
  if [ -s "$UNFINISHED" ]; then mapfile -t earlier <"$UNFINISHED"; fi
}

# Goes on where that run was cut off: the relay is started anew, and if it does not answer, everything is as it was
# before that run.
take_up() {
  local old
  if is_active "$SERVICE" && runs_binary only && "$BINARY" upgrade --help >/dev/null 2>&1; then hands_over=1; fi
  if [ "${#earlier[@]}" = 0 ]; then
    # Of a run that was cut off when all was done.
    while read -r old; do rm -f "$old"; done < <(leftovers)
    return 0
  fi
  undo=("${earlier[@]}" "${undo[@]}")
  earlier=()
  say 'A run before this one was cut off: the relay is started anew.'
  changed=1 hands_over=''
}

# take_away FILE : removes a file that is kept until the relay answers.
take_away() {
  [ -e "$1" ] || return 0
  keep "$1"
  rm -f "$1" || die "$1 cannot be removed"
  changed=1
}

# place_aside FILE MODE WHAT : as place, for a file that updates read, and the relay does not: no reason to restart it. WHAT
# is said where nothing else has changed.
aside=()
place_aside() {
  local was_changed=$changed
  changed=''
  place "$1" "$2" root
  if [ -n "$changed" ]; then aside+=("$3"); fi
  changed=$was_changed
}

# remember_state UNIT : what it is, to go back to: what it was before a run that was cut off, where there was one.
remember_state() {
  local entry active=no enabled=no
  for entry in "${undo[@]}"; do
    case $entry in
      "unit $1 "*) return ;;
    esac
  done
  if is_active "$1"; then active=yes; fi
  if is_enabled "$1"; then enabled=yes; fi
  remember "unit $1 $active $enabled"
}

# Stops and disables a unit that is in the way.
retire() {
  remember_state "$1"
  if is_active "$1"; then systemctl stop "$1" || die "$1 cannot be stopped"; fi
  if is_enabled "$1"; then systemctl disable --quiet "$1" || die "$1 cannot be disabled"; fi
}

# was_retired UNIT : by a run that was cut off.
was_retired() { [[ "${earlier[*]/#/|}" == *"|unit $1 "* ]]; }

# undo_entry ENTRY
undo_entry() {
  local what=${1#* }
  case $1 in
    restore\ *) [ ! -e "$(kept "$what")" ] || mv -f "$(kept "$what")" "$what" ;;
    remove\ *) rm -f "$what" ;;
    rmdir\ *) rmdir "$what" 2>/dev/null || true ;;
    rmtree\ *) rm -rf "$what" ;;
    account) ! id -u "$ACCOUNT" >/dev/null 2>&1 || userdel "$ACCOUNT" ;;
    crontab\ *) [ ! -e "$what" ] || { crontab "$what" && rm -f "$what"; } ;;
    disable\ *) ! is_enabled "$what" || systemctl disable --quiet "$what" ;;
  esac
}

roll_back() {
  local index entry units=() unit active enabled whole=1
  say '' >&2
  say 'Undoing everything ...' >&2
  if [ -n "$service_touched" ]; then systemctl stop "${sockets[@]}" "$SERVICE" 2>/dev/null || true; fi
  for ((index = ${#undo[@]} - 1; index >= 0; index--)); do
    entry=${undo[index]}
    case $entry in
      unit\ *) units=("${entry#* }" "${units[@]}") ;;
      *)
        if ! undo_entry "$entry"; then
          warn "this could not be undone: $entry"
          whole=''
        fi
        ;;
    esac
  done
  systemctl daemon-reload || true
  if [ "${#sockets[@]}" -gt 0 ]; then systemctl reset-failed "${sockets[@]}" 2>/dev/null || true; fi
  for entry in "${units[@]}"; do
    read -r unit active enabled <<<"$entry"
    if [ "$enabled" = yes ]; then
      systemctl enable --quiet "$unit" || warn "$unit could not be enabled again"
    elif is_enabled "$unit"; then
      systemctl disable --quiet "$unit" || warn "$unit could not be disabled again"
    fi
    if [ "$active" = yes ]; then systemctl start --no-block "$unit" || true; fi
  done
  for entry in "${units[@]}"; do
    read -r unit active enabled <<<"$entry"
    if [ "$active" = yes ] && ! wait_until_active "$unit"; then
      warn "$unit does not run again"
      whole=''
    fi
  done
  # What a run that was cut off has done is left to one that takes it up.
  if [ "${#earlier[@]}" = 0 ]; then
    rm -f "$UNFINISHED"
    if [ "${undo[0]}" = "rmdir $ETC" ]; then rmdir "$ETC" 2>/dev/null || true; fi
  fi
  if [ -n "$whole" ]; then say 'Everything is as it was before.' >&2; fi
}

wait_until_active() {
  local tenth
  for ((tenth = 0; tenth < 150; tenth++)); do
    if is_active "$1"; then return 0; fi
    sleep 0.1
  done
  return 1
}

# What has been done stays done, after a power cut too: the new names are on the disk before the old ones go.
commit() {
  local entry directory
  while read -r directory; do
    sync "$directory" || warn "$directory cannot be synced: a power cut in the next seconds may undo some of it"
  done < <(if [ "${#placed[@]}" -gt 0 ]; then dirname "${placed[@]}" | sort -u; fi)
  # First: what is still kept then is not gone back to.
  rm -f "$UNFINISHED"
  sync "$ETC" || true
  for entry in "${undo[@]}"; do
    case $entry in
      restore\ *) rm -f "$(kept "${entry#* }")" ;;
      crontab\ *) rm -f "${entry#* }" ;;
    esac
  done
  undo=()
  if [ "${#taken[@]}" -gt 0 ]; then rmdir "$UNITS/$SERVICE.d" 2>/dev/null || true; fi
}

finish() {
  local code=$?
  # What is undone is undone to its end: a second Ctrl-C is for nobody, and none of the commands that are run from here
  # on hears of it either.
  trap '' HUP INT TERM PIPE
  trap - EXIT
  set +e
  rm -f "$(staged "$BINARY")" "$ETC"/.*.parley-new "$ETC"/tls/.*.parley-new "$UNITS"/.*.parley-new \
    "$UNITS/$TIMER.d"/.*.parley-new "$UNITS/$SERVICE.d"/.*.parley-new
  if [ "${#undo[@]}" -gt 0 ]; then roll_back; fi
  if [ -n "$work" ]; then rm -rf "$work"; fi
  exit "$code"
}

# --- The program -----------------------------------------------------------------------------------------------------

# Where the mirror may send us on to; set by check_mirror.
redirects='=https'

# kept_value NAME : of update.env, which systemd reads too: what is in quotes is what is meant.
kept_value() {
  [ -r "$UPDATE_ENV" ] || return 0
  sed -n "s/^$1=//p" "$UPDATE_ENV" | tail -n 1 | sed "s/^\([\"']\)\(.*\)\1\$/\2/"
}

# The mirror that was given, else the one of the last time, with the trust that it had; else the project's.
mirror_given=''
choose_mirror() {
  local flags
  if [ -n "$mirror" ]; then
    mirror_given=1
  else
    mirror=$(kept_value MIRROR_BASE_URL)
    mirror=${mirror%/}
    if [ -n "$mirror" ]; then
      say "The mirror is the one that was kept in $UPDATE_ENV: $mirror (--mirror URL is another)"
      flags=" $(kept_value UPDATE_FLAGS) "
      if [[ $flags == *' --plain-http '* ]]; then plain_http=1; fi
    fi
  fi
  mirror=${mirror:-$RELEASES}
}

# kept_proxy : that of the flags of automatic updates.
kept_proxy() { kept_value UPDATE_FLAGS | sed -n 's/.*--proxy[ =]\([^ ]*\).*/\1/p'; }

# The proxy to download through: the one that was given, else the one of the last time.
proxy=''
choose_proxy() {
  proxy=${given[proxy]-$(kept_proxy)}
  # systemd reads it from a line of words.
  case $proxy in
    *[\'\"\\[:space:][:cntrl:]]*) die 'the proxy to download through has spaces, quotes or backslashes in it' ;;
    '' | http://?* | socks5://?* | socks5h://?*) ;;
    off) proxy='' ;;
    *) die '--proxy is a URL that begins with http://, socks5:// or socks5h://, or off' ;;
  esac
}

# through_proxy COMMAND… : SECURITY: its password is on no command line.
through_proxy() {
  if [ -n "$proxy" ]; then
    http_proxy=$proxy https_proxy=$proxy no_proxy='' NO_PROXY='' "$@"
  else
    "$@"
  fi
}

# SECURITY: what comes over plain HTTP runs as root here. A signature makes up for it; checksums from the same place
# do not.
check_mirror() {
  # systemd and `parley-relay update` read it from a file of lines, where these have a meaning.
  case $mirror in
    *[\'\"\\]* | *[[:cntrl:]]*) die "the mirror has quotes, backslashes or control characters in it: $mirror" ;;
  esac
  case ${mirror,,} in
    https://?* | /*) return 0 ;;
    http://?*) ;;
    *) die "the mirror is no URL that begins with https://: $mirror" '--files DIR takes files that are here' ;;
  esac
  if [ -n "$plain_http" ] || [ -f "${public_key:-$UPDATE_KEY}" ]; then
    redirects='=http,https'
  elif ! is_loopback "$mirror"; then
    die "the mirror is reached without TLS, and what comes from it would run as root: $mirror" \
      'use https://, or a signature and its key (--public-key), or trust it: --plain-http'
  fi
}

# Refuses a directory as the mirror of automatic updates that their service does not see: ProtectHome, PrivateTmp.
check_mirror_is_seen() {
  local place
  [ "${answer[updates]}" != off ] || return 0
  case $mirror in
    /*) place=$(readlink -m "$mirror") ;;
    *) return 0 ;;
  esac
  case $place/ in
    /home/* | /root/* | /run/user/* | /tmp/* | /var/tmp/*)
      # Files that are brought this once come from elsewhere.
      if [ "$action" = update ] && [ -z "$mirror_given" ]; then
        warn "automatic updates do not see the mirror $mirror: home directories and /tmp are kept from them"
        return
      fi
      die "automatic updates do not see the mirror $mirror: home directories and /tmp are kept from them" \
        'move it, for instance to /srv, and give --mirror again' \
        'or --updates off; --files DIR takes files from there this once'
      ;;
  esac
}

# SECURITY: what is in a directory that is kept as the mirror runs as root at every update from then on, and nobody
# looks: nobody but root may write there. What is signed may come from anybody.
check_mirror_is_ours() {
  case $mirror in
    /*) [ ! -f "${public_key:-$UPDATE_KEY}" ] || return 0 ;;
    *) return 0 ;;
  esac
  # The mirror of the last time is looked at when something is taken from it.
  [ -n "$mirror_given" ] || { [ "$action" != update ] && [ "${answer[updates]}" != off ]; } || return 0
  SUDO_UID=0 SUDO_GID=0 trust_way "$mirror" 'it is not kept as the mirror' \
    "chown it to root; or have releases signed, with --public-key; --files DIR takes files from there this once"
}

# is_loopback URL : whether it leads to this machine.
is_loopback() {
  local authority=${1#*://}
  authority=${authority%%[/?#]*}
  [[ $authority =~ ^(127(\.[0-9]+){3}|localhost|\[::1\])(:[0-9]*)?$ ]]
}

# fetch NAME : downloads a release file into $work, and shows how far it is.
fetch() {
  local url=$mirror/$1 into=$work/$1 progress=()
  if command -v curl >/dev/null; then
    progress=(--silent --show-error)
    if [ -t 2 ]; then progress=(--progress-bar); fi
    through_proxy curl "${progress[@]}" --fail --location --proto '=http,https' --proto-redir "$redirects" --retry 2 \
      --connect-timeout 20 --output "$into" "$url"
  elif command -v wget >/dev/null; then
    case $proxy in
      socks*) die 'wget knows no SOCKS proxies: install curl, or --proxy off' ;;
    esac
    progress=(-nv)
    if [ -t 2 ] && wget --help 2>&1 | grep -q show-progress; then progress=(-q --show-progress); fi
    wget_redirected "$url" "$into" "${progress[@]}"
  else
    die 'neither curl nor wget is there to download with' \
      'install one of them, or put the release files beside this script'
  fi
}

# wget_redirected URL FILE OPTION… : wget itself would follow from https:// to http://.
wget_redirected() {
  local url=$1 into=$2 log=$work/wget.log hop next authority
  shift 2
  for ((hop = 0; hop < 10; hop++)); do
    if through_proxy wget "$@" --server-response --max-redirect=0 --tries=3 --timeout=20 -o "$log" -O "$into" "$url"; then
      return 0
    fi
    next=$(sed -n 's/^ *[Ll]ocation: *\([^ ]*\).*/\1/p' "$log" | tail -n 1)
    case ${next,,} in
      https://*) url=$next ;;
      http://*)
        url=$next
        [ "$redirects" != '=https' ] || break
        ;;
      /*)
        authority=${url#*://}
        url=${url%%://*}://${authority%%/*}$next
        ;;
      *) break ;;
    esac
  done
  tail -n 3 "$log" >&2
  [ -z "$next" ] || printf 'not followed: %s\n' "$next" >&2
  return 1
}

sha256() {
  if command -v sha256sum >/dev/null; then
    sha256sum <"$1" | cut -d ' ' -f 1
  elif command -v openssl >/dev/null; then
    openssl dgst -sha256 -r "$1" | cut -d ' ' -f 1
  else
    die 'neither sha256sum nor openssl is there to check the download with'
  fi
}

# Puts the checked program into place's waiting room, and sets $new to it.
new=''
get_program() {
  local name source=''
  name=relay-linux-$(architecture)
  work=$(mktemp -d) || no_room
  find_files "$name"
  if [ -n "$files" ] && [ -f "$files/$name" ]; then
    say "Using $files/$name"
    source=$files/$name
    local sums
    for sums in SHA256SUMS SHA256SUMS.minisig; do
      if [ -f "$files/$sums" ]; then cp "$files/$sums" "$work/" || no_room; fi
    done
  elif [ "${mirror#/}" != "$mirror" ]; then
    die "there is no $name in the mirror $mirror" 'is it mounted? --mirror names another'
  else
    say "Downloading $mirror/$name"
    fetch SHA256SUMS || die "$mirror/SHA256SUMS cannot be had" \
      'MIRROR_BASE_URL names another place, --proxy a proxy on the way; or put the release files beside this script'
    fetch SHA256SUMS.minisig 2>/dev/null || rm -f "$work/SHA256SUMS.minisig"
    fetch "$name" || die "$mirror/$name cannot be had"
    source=$work/$name
    downloaded=1
  fi
  check_signature
  make_directory "$(dirname "$BINARY")"
  new=$(staged "$BINARY")
  # SECURITY: the copy is checked, which nobody else can write, and not what it was copied from.
  install -m 600 "$source" "$new" || die "the program cannot be written to $(dirname "$BINARY")" 'is the disk full?'
  check_sum "$name" "$new"
  chmod 755 "$new" || die "$new cannot be made a program"
  version=$("$new" --version 2>&1) || die "the program does not run here: $version"
  refuse_older
}

# find_files NAME : sets $files to the directory with the release files, if there is one: what was named now, or lies
# beside this script, or is the mirror of the last time.
find_files() {
  if [ -n "$files" ]; then return; fi
  if [ -n "$mirror_given" ] && [ -d "$mirror" ]; then
    files=$mirror
    return
  fi
  files=$(script_directory)
  if [ -z "$files" ] || [ ! -f "$files/$1" ]; then
    files=''
    # `parley-relay update` takes a directory for a mirror.
    if [ -d "$mirror" ]; then files=$mirror; fi
  fi
  if [ -n "$files" ]; then trust_files "$1"; fi
}

# Where this script lies; nowhere, when it came through a pipe.
script_directory() {
  local script=${BASH_SOURCE[0]:-}
  if [ -f "$script" ]; then (cd "$(dirname "$script")" && pwd); fi
}

# trust_files NAME : SECURITY: what lies beside this script, or in the mirror of the last time, is run as root. Nobody
# but root, or who ran sudo, may have put it there: in /tmp anybody could.
trust_files() {
  local file
  for file in "$files" "$files/$1" "$files/SHA256SUMS" "$files/SHA256SUMS.minisig"; do
    [ -e "$file" ] || continue
    trust_way "$file" "it is not used" "--files $files uses it all the same"
  done
}

# trust_way FILE VERDICT ADVICE : dies if somebody else may write to FILE, or put another in its place: by a directory
# above it, or by a link on the way. What is not there yet is not looked at.
trust_way() {
  local file=$1 owner group mode others target
  while :; do
    if [ -e "$file" ] || [ -L "$file" ]; then
      read -r owner group mode <<<"$(stat -c '%u %g %a' "$file")"
      case $owner in
        0 | "${SUDO_UID:-0}") ;;
        *) die "$file belongs to another user: $2" "$3" ;;
      esac
      if [ -L "$file" ]; then
        [ -e "$file" ] || die "$file leads nowhere: $2" "$3"
        target=$(readlink "$file")
        case $target in
          /*) ;;
          *) target=$(dirname "$file")/$target ;;
        esac
        trust_way "$target" "$2" "$3"
        # Its own mode means nothing.
        mode=0
      fi
      # A group of root's, or of the user's alone, is no other.
      case $group in
        0 | "${SUDO_GID:-0}") others=$((0$mode & 002)) ;;
        *) others=$((0$mode & 022)) ;;
      esac
      # In a sticky directory above, each name is its owner's.
      if [ "$file" != "$1" ] && [ $((0$mode & 01000)) != 0 ]; then others=0; fi
      [ "$others" = 0 ] || die "others may write to $file: $2" "$3"
    fi
    [ "$file" != / ] || return 0
    file=$(dirname "$file")
  done
}

check_sum() {
  local name=$1 file=$2 wanted='' found
  if [ -f "$work/SHA256SUMS" ]; then
    wanted=$(awk -v name="$name" '{ sub(/^\*/, "", $2) } $2 == name { print $1; exit }' "$work/SHA256SUMS")
  fi
  if [ -z "$wanted" ]; then
    [ -n "$unverified" ] || die "no SHA256SUMS names $name" 'put the one of the release beside it, or give --unverified'
    warn "$name is not checked, as you asked"
    return
  fi
  found=$(sha256 "$file")
  [ "$found" = "$wanted" ] || die "$name is damaged: its SHA-256 is not the one in SHA256SUMS" \
    "expected $wanted" "found    $found" 'nothing has been changed'
  note "SHA-256 is right"
}

check_signature() {
  local key=${public_key:-$UPDATE_KEY}
  [ -f "$key" ] || return 0
  # SECURITY: whoever put a key there wants nothing that is not signed.
  command -v minisign >/dev/null ||
    die 'minisign is not there to check the signature with: install it, or remove the key' "the key: $key"
  [ -f "$work/SHA256SUMS.minisig" ] || die 'SHA256SUMS has no signature (SHA256SUMS.minisig)' 'nothing has been changed'
  minisign -V -q -m "$work/SHA256SUMS" -p "$key" || die 'the signature of SHA256SUMS is wrong' 'nothing has been changed'
  note "the signature is right"
}

# SECURITY: an old release is as well signed as a new one; its holes are known. `parley-relay update` does the same.
refuse_older() {
  local installed offered newest
  [ -z "$any_version" ] && is_installed || return 0
  installed=$("$BINARY" --version 2>/dev/null | version_number) || return 0
  [ -n "$installed" ] || return 0
  offered=$(version_number <<<"$version")
  newest=$(printf '%s\n' "$installed" "$offered" | LC_ALL=C sort -V | tail -n 1)
  [ "$installed" = "$offered" ] || [ "$newest" = "$offered" ] ||
    die "the release is older than what is installed: $version" "installed is $installed" \
      '--any-version takes it all the same; nothing has been changed'
}

# The version in what --version says, as sort(1) puts it in order: a pre-release before its release.
version_number() { sed -n '1s/^[^ ]* \([0-9][^ +]*\).*/\1/p' | sed 's/-/~/'; }

# has COMMAND : whether the new program knows it.
has() { "$new" "$1" --help >/dev/null 2>&1; }

# --- Questions -------------------------------------------------------------------------------------------------------

# present TABLE KEY : what the config says now; one that is to be carried over counts.
present() { toml_value "${base_config:-/dev/null}" "$1" "$2"; }

# current KEY : of [server], as this relay has it; an older one listened behind nginx.
current() { if [ "$base_config" = "$CONFIG" ]; then present server "$1"; fi; }

# first VALUE… : the first that is not empty.
first() {
  local value
  for value in "$@"; do
    if [ -n "$value" ]; then
      say "$value"
      return
    fi
  done
}

ask_everything() {
  local before frontend_mode
  ask_domain
  ask prefix "URI path prefix (must match Sova's uri_prefix)" \
    "$(first "$(present '' uri_prefix)" "$(toml_value "$sova" '' uri_prefix)")"
  ask backend 'Sova backend URL' "$(first "$(present backend url)" "$(sova_url)" http://127.0.0.1:42836)"
  ask directory 'Install directory' "$(first "$(setting directory)" "$old_directory" /opt/parley-relay)"
  answer[directory]=${answer[directory]%/}
  case ${answer[directory]} in
    /?*) ;;
    *) die "the install directory is no absolute path: ${answer[directory]:-/}" '--directory gives it' ;;
  esac
  ask_certificate
  if [ "${answer[certificate]}" = off ]; then
    ask port 'Port for plain HTTP' "$(first "$(present server port)" 7861)"
    answer[http_port]=$(present server http_port)
  else
    ask port 'HTTPS port' "$(first "$(current port)" "$old_port" 443)"
    answer[http_port]=$(http_port)
  fi
  before=''
  if [ "$(present upstream_proxy enabled)" = true ]; then before=$(present upstream_proxy url); fi
  ask upstream-proxy 'Upstream HTTP or SOCKS5 proxy, such as socks5://user:pass@host:1080 (off for none)' \
    "${before:-off}"
  answer[acme-proxy]=${given[acme-proxy]:-}
  if by_acme && [ "${answer[upstream-proxy]}" != off ] && [ -z "${answer[acme-proxy]}" ] && [ -z "$base_config" ]; then
    if confirm "Reach Let's Encrypt through it too?" yes; then answer[acme-proxy]=upstream; fi
  fi
  frontend_mode=$(present frontend mode)
  if [ -z "$frontend_mode" ]; then
    case $(toml_value "$sova" frontend hosted) in
      true) frontend_mode=forward ;;
      false) frontend_mode=disabled ;;
      *) frontend_mode=serve ;;
    esac
  fi
  ask_frontend "$frontend_mode"
  ask_updates
  # Not asked: what it is for means something to administrators alone.
  answer[sockets]=$(first "${given[sockets]:-}" "$(setting sockets)" no)
}

ask_domain() {
  local offered
  offered=$(first "$(present tls domains)" "$old_name")
  if [ "${#domains[@]}" -eq 0 ]; then
    # A relay that stays behind another proxy has no name of its own.
    if [ "$(wanted_certificate)" = off ]; then return; fi
    ask domain 'Domain or IP address' "$offered"
    read -r -a domains <<<"${answer[domain]//,/ }"
  fi
  [ "${#domains[@]}" -gt 0 ] || die 'a domain or an IP address is needed' '--domain gives it'
}

# Which certificate was asked for, or is there, before any question.
wanted_certificate() {
  if [ -n "${given[certificate]:-}" ]; then
    say "${given[certificate]}"
  elif [ -n "${given[cert]:-}" ]; then
    say files
  elif [ -n "$base_config" ] && [ -z "$old_port" ]; then
    # A name for what was plain HTTP turns it into something else.
    if [ "${#domains[@]}" -eq 0 ] || [ "$(present_mode)" != off ]; then present_mode; fi
  fi
}

ask_certificate() {
  local offered
  offered=$(wanted_certificate)
  if [ "$offered" = acme ] && [ -z "${given[certificate]:-}" ] && [ -n "$(present tls.acme.dns hook)" ]; then offered=dns; fi
  if [ -z "$offered" ] && [ -n "$old_cert" ]; then
    case $old_cert in
      "$LETSENCRYPT"/*) offered=${old_by_dns:+dns} offered=${offered:-acme} ;;
      *) offered=files ;;
    esac
  fi
  if [ -z "$offered" ]; then
    if is_local "${domains[0]}"; then offered=self-signed; else offered=acme; fi
  fi
  case ${given[certificate]:-} in
    '' | auto | acme | dns | self-signed | files | off) ;;
    *) usage_error "--certificate is auto, acme, dns, self-signed, files or off" ;;
  esac
  if [ "${#domains[@]}" -eq 0 ]; then
    answer[certificate]=$offered
  elif [ -z "${given[certificate]:-}" ] && [ "$offered" = self-signed ] && [[ ${domains[0]} =~ ^[0-9.]+$|: ]]; then
    note 'An IP address: the certificate comes from a CA of the relay itself.'
    answer[certificate]=self-signed
  else
    if [ -z "${given[certificate]:-}" ] && [ -z "$assume_yes" ]; then say '' && say 'Certificate:'; fi
    choose certificate "$offered" \
      'self-signed=Self-signed, by a CA of the relay itself (each device has to trust it once)' \
      "acme=Let's Encrypt (port 443 or 80 must be open to the internet; renews itself)" \
      "dns=Let's Encrypt by a DNS record (works behind a firewall)" \
      'files=Existing certificate (you give the files)'
  fi
  case ${answer[certificate]} in
    files)
      ask cert 'Certificate file (PEM)' "$(first "$(present tls cert)" "$old_cert")"
      ask key 'Private key file (PEM)' "$(first "$(present tls key)" "$old_key")"
      ;;
    acme | auto | dns)
      if by_acme; then ask email "Email for Let's Encrypt (empty for none)" "$(present tls.acme email)"; fi
      if [ "${answer[certificate]}" = dns ]; then
        ask dns-hook 'Program that sets DNS records (empty: by hand)' "$(first "$(present tls.acme.dns hook)" "$old_hook")"
      fi
      ;;
  esac
}

# Whether a certificate comes from a public CA.
by_acme() {
  case ${answer[certificate]} in
    acme | dns) return 0 ;;
    auto) ! is_local "${domains[0]}" ;;
    *) return 1 ;;
  esac
}

ask_frontend() {
  local mode=$1
  if [ -n "${given[frontend]+given}" ]; then
    answer[frontend]=${given[frontend]}
    return
  fi
  if [ -z "$assume_yes" ]; then say '' && say 'Frontend:'; fi
  choose frontend_mode "$mode" \
    'serve=serve    - files from a directory' \
    'forward=forward  - another server, such as Sova itself' \
    'disabled=disabled - nothing but the API'
  case ${answer[frontend_mode]} in
    serve) ask frontend 'Frontend directory' "$(first "$(present frontend directory)" "${answer[directory]}/mura")" ;;
    forward) ask frontend 'Frontend URL' "$(first "$(present frontend url)" "${answer[backend]}")" ;;
    *) answer[frontend]=off ;;
  esac
}

ask_updates() {
  local offered
  answer[updates]=off
  if ! has update; then
    [ "${given[updates]:-off}" = off ] || warn 'this program cannot update itself: automatic updates stay off'
    return
  fi
  offered=$(setting updates)
  if [ -z "$offered" ]; then
    # Who brought the files has no network, or does not want it used.
    if [ -n "$downloaded" ]; then offered=weekly; else offered=off; fi
  fi
  if [ -z "${given[updates]+given}" ] && [ -z "$assume_yes" ]; then say '' && say 'Automatic updates:'; fi
  choose updates "$offered" off=off 'hourly=every hour' 'daily=every day' 'weekly=every week' 'monthly=every month'
  case ${answer[updates]} in
    daily | weekly | monthly) ask update-time 'At what time (HH:MM)' "$(first "$(setting update-time)" 04:00)" ;;
  esac
}

# The port for redirects and ACME: taken by something that stays, there is none.
http_port() {
  local now
  now=$(current http_port)
  if [ -n "${given[http-port]+given}" ]; then
    say "${given[http-port]}"
  elif [ -n "$now" ]; then
    say "$now"
  elif is_listening 80 && ! is_active "$SERVICE" && ! is_active "$HTTP_SOCKET" && [ -z "$old_port80" ]; then
    warn 'port 80 is taken by another program: the relay does without it'
    say 0
  fi
}

sova_url() {
  local host port
  port=$(toml_value "$sova" server port)
  [ -n "$port" ] || return 0
  host=$(toml_value "$sova" server host)
  case $host in
    '' | 0.0.0.0 | ::) host=127.0.0.1 ;;
    *:*) host="[$host]" ;;
  esac
  say "http://$host:$port"
}

# setting NAME : an answer of the last time that the config does not hold.
setting() {
  [ -r "$MANIFEST" ] || return 0
  sed -n "s/^$1=//p" "$MANIFEST" | head -n 1
}

# --- Putting it in place ---------------------------------------------------------------------------------------------

base_config='' downloaded='' version=''

account_made=''
make_account() {
  if id -u "$ACCOUNT" >/dev/null 2>&1; then return; fi
  remember account
  useradd --system --user-group --no-create-home --home-dir "$STORAGE" --shell /usr/sbin/nologin "$ACCOUNT" ||
    die "the user $ACCOUNT cannot be made"
  account_made=1
}

# Whether this script has made the account, now or before: what it has not made, it does not remove.
made_account() { [ -n "$account_made" ] || grep -qsx account=made "$MANIFEST" "$REMOVED"; }

# Keys and certificates: the service's own directory, which it would otherwise make when it starts.
make_storage() {
  if [ -d "$STORAGE" ]; then return; fi
  remember "rmtree $STORAGE"
  install -d -m 700 -o "$ACCOUNT" -g "$ACCOUNT" "$STORAGE" || die "$STORAGE cannot be made"
}

make_directories() {
  make_directory "$ETC"
  make_directory "${answer[directory]}"
  # For a person to put the files in.
  case ${answer[frontend]} in
    "${answer[directory]}"/*) make_directory "${answer[frontend]}" ;;
  esac
}

# A certificate that only root can read is copied to where the service can; $copied is how to do it again.
copied=()
make_certificate_readable() {
  local file name readable=yes
  [ "${answer[certificate]}" = files ] || return 0
  for name in cert key; do
    file=${answer[$name]}
    [ -f "$file" ] || die "there is no file $file" "--$name names the $name file"
    if ! as_account test -r "$file" 2>/dev/null; then
      readable=''
      note "$file is root's alone: the relay gets copies, in $ETC/tls"
    fi
  done
  [ -z "$readable" ] || return 0
  make_directory "$ETC/tls"
  # Both: a new certificate with a copy of the old key would be no pair, and no relay would start with it.
  for name in cert key; do
    file=${answer[$name]}
    [ "$file" != "$ETC/tls/$name.pem" ] || continue
    cp "$file" "$(staged "$ETC/tls/$name.pem")" || die "$ETC/tls/$name.pem cannot be written"
    place "$ETC/tls/$name.pem" 640 "$ACCOUNT"
    copied+=("install -m 640 -g $ACCOUNT $(printf %q "$file") $ETC/tls/$name.pem")
    answer[$name]=$ETC/tls/$name.pem
  done
}

as_account() { runuser -u "$ACCOUNT" -- "$@"; }

# Has the new program write the config. One that is there is told only what is to be other than it is, so that it
# stays as it was written.
write_config() {
  local arguments=() secrets=() name hook mode='' proxy=off
  if [ -n "$base_config" ]; then
    arguments+=(--from "$base_config")
    mode=$(present_mode)
    if [ "$(present upstream_proxy enabled)" = true ]; then proxy=$(present upstream_proxy url); fi
  elif [ -f "$sova" ]; then
    arguments+=(--sova "$sova")
  fi
  if [ "${domains[*]}" != "$(present tls domains)" ]; then
    for name in "${domains[@]}"; do arguments+=(--domain "$name"); done
  fi
  # SECURITY: everybody can read a command line; a process's environment is its owner's alone.
  if [ -z "$base_config" ] || [ "${answer[prefix]}" != "$(present '' uri_prefix)" ]; then
    secrets+=("PARLEY_RELAY_URI_PREFIX=${answer[prefix]}")
  fi
  differ backend "${answer[backend]}" "$(present backend url)"
  differ frontend "${answer[frontend]}" "$(present_frontend)"
  if [ "${answer[upstream-proxy]}" != "$proxy" ]; then
    secrets+=("PARLEY_RELAY_UPSTREAM_PROXY=${answer[upstream-proxy]}")
  fi
  # What was not asked for stays as it is.
  if [ -n "${answer[acme-proxy]:-}" ]; then secrets+=("PARLEY_RELAY_ACME_PROXY=${answer[acme-proxy]}"); fi
  # Given, it counts whatever certificate it is; who leaves the DNS needs no hook.
  differ email "${given[email]-${answer[email]:-$(present tls.acme email)}}" "$(present tls.acme email)"
  hook=$(present tls.acme.dns hook)
  if [ "${answer[certificate]}" = dns ] || [ -n "${given[dns-hook]+given}" ]; then
    differ dns-hook "${given[dns-hook]-${answer[dns-hook]}}" "$hook"
  elif [ "$mode" = acme ] || [ "${answer[certificate]}" = acme ]; then
    differ dns-hook '' "$hook"
  fi
  if [ -n "${answer[http_port]}" ]; then differ http-port "${answer[http_port]}" "$(current http_port)"; fi
  case ${answer[certificate]} in
    off) differ port "${answer[port]}" "$(first "$(present server port)" 7861)" ;;
    *) differ port "${answer[port]}" "$(first "$(current port)" 443)" ;;
  esac
  case ${answer[certificate]} in
    files)
      if [ "${answer[cert]}" != "$(present tls cert)" ] || [ "${answer[key]}" != "$(present tls key)" ]; then
        arguments+=(--cert "${answer[cert]}" --key "${answer[key]}")
      fi
      ;;
    dns) differ certificate acme "$mode" ;;
    *) differ certificate "${answer[certificate]}" "$mode" ;;
  esac
  rm -f "$(staged "$CONFIG")"
  (
    for name in "${secrets[@]}"; do export "${name?}"; done
    exec "$new" init "$(staged "$CONFIG")" "${arguments[@]}" >/dev/null
  ) || die 'with these answers there is no valid config' 'nothing has been changed' \
    ${base_config:+"if it is what was there before: parley-relay check $base_config"}
  place "$CONFIG" 640 "$ACCOUNT"
}

# differ FLAG VALUE PRESENT : adds the flag for a value that is another than the present one.
differ() {
  if [ "$2" != "$3" ]; then arguments+=("--$1" "$2"); fi
}

# The front end of the config, as --frontend would give it.
present_frontend() {
  case $(present frontend mode) in
    disabled) say off ;;
    forward) present frontend url ;;
    *) present frontend directory ;;
  esac
}

# `[tls] mode` of the config that there is: what it means where it is not written.
present_mode() {
  local mode
  mode=$(present tls mode)
  if [ -n "$(present tls cert)" ] && [ "$mode" != off ]; then
    mode=files
  elif [ -z "$mode" ] && ! grep -q '^[[:blank:]]*\[tls\]' "$base_config"; then
    mode=off
  fi
  say "${mode:-auto}"
}

write_units() {
  local unit when before expression schedule=$UNITS/$TIMER.d/schedule.conf
  keep_public_key
  keep_mirror
  write_unit "$SERVICE"
  write_sockets
  when="${answer[updates]} ${answer[update-time]:-}"
  before="$(setting updates) $(setting update-time)"
  [ "$when" = "$before" ] || aside+=("automatic updates: ${when% }")
  [ "${answer[updates]}" != off ] || return 0
  for unit in "${UPDATE_UNITS[@]}"; do write_unit "$unit"; done
  # For as long as the answer is the same, so is what somebody has added to it.
  if [ "$when" = "$before" ] && [ -f "$schedule" ]; then return; fi
  expression=$(calendar)
  make_directory "$UNITS/$TIMER.d"
  printf '[Timer]\nOnCalendar=\nOnCalendar=%s\n' "$expression" >"$(staged "$schedule")" ||
    die "$schedule cannot be written"
  place_aside "$schedule" 644 "$schedule: $expression"
}

# Writes down the mirror and the proxy for updates, automatic ones and those of this script; other lines stay as
# somebody wrote them.
keep_mirror() {
  local flags new_file mode=644
  [ "$mirror" != "$RELEASES" ] || [ -n "$proxy" ] || [ -f "$UPDATE_ENV" ] || return 0
  flags=" $(kept_value UPDATE_FLAGS | sed 's/--proxy[ =][^ ]*//')${proxy:+ --proxy $proxy} "
  # Trust in one mirror is none in another.
  flags=${flags/ --plain-http / }
  if [ -n "$plain_http" ] && [ "$mirror" != "$RELEASES" ]; then flags+=--plain-http; fi
  read -r flags <<<"$flags" || true
  new_file=$(staged "$UPDATE_ENV")
  # SECURITY: flags and mirror may hold a password. A mode that somebody has set stays, and while it is written, nobody
  # else reads it.
  if [ -f "$UPDATE_ENV" ]; then
    mode=$(stat -c %a "$UPDATE_ENV")
  fi
  if [ "$mode" = 644 ] && [[ $mirror$proxy == *@* ]]; then mode=600; fi
  rm -f "$new_file"
  (umask 077 && : >"$new_file") || die "$UPDATE_ENV cannot be written"
  {
    if [ -f "$UPDATE_ENV" ]; then grep -v '^\(MIRROR_BASE_URL\|UPDATE_FLAGS\)=' "$UPDATE_ENV" || true; fi
    if [ "$mirror" != "$RELEASES" ]; then printf 'MIRROR_BASE_URL=%s\n' "$mirror"; fi
    if [ -n "$flags" ]; then printf 'UPDATE_FLAGS=%s\n' "$flags"; fi
  } >"$new_file" || die "$UPDATE_ENV cannot be written"
  # SECURITY: other flags are not told: a proxy's URL may hold a password.
  place_aside "$UPDATE_ENV" "$mode" \
    "$UPDATE_ENV: updates come from $mirror${proxy:+ through a proxy}${plain_http:+, with --plain-http}"
}

# A key that was given goes where updates look for one: its file may be gone by then.
keep_public_key() {
  [ -n "$public_key" ] || return 0
  grep -q '^RW' "$public_key" || die "$public_key holds no minisign public key"
  cp "$public_key" "$(staged "$UPDATE_KEY")" || die "$UPDATE_KEY cannot be written"
  place_aside "$UPDATE_KEY" 644 "$UPDATE_KEY: updates are checked with the key of $public_key"
}

# unit_file UNIT : where it lies. The drop-in's name comes before those of a person, who has the last word.
unit_file() {
  case $1 in
    "$SOCKET_DROP_IN") say "$UNITS/$SERVICE.d/10-socket.conf" ;;
    *) say "$UNITS/$1" ;;
  esac
}

# The socket units that are there, whoever wrote them.
present_sockets() {
  local unit
  for unit in "${SOCKETS[@]}"; do
    if [ -f "$UNITS/$unit" ]; then say "$unit"; fi
  done
}

# Puts the sockets there or takes them away, as was answered: $sockets are those of the config, $closing those that
# have to end before the service starts again.
write_sockets() {
  local unit http
  if [ "${answer[sockets]}" = yes ]; then
    refuse_sockets_by_hand
    sockets=("$HTTPS_SOCKET")
    http=$(redirect_port)
    if [ "$http" != 0 ]; then sockets=("$HTTP_SOCKET" "$HTTPS_SOCKET"); fi
    make_directory "$UNITS/$SERVICE.d"
    for unit in "${sockets[@]}" "$SOCKET_DROP_IN"; do write_unit "$unit"; done
  fi
  for unit in "${SOCKETS[@]}" "$SOCKET_DROP_IN"; do
    case " ${sockets[*]:+${sockets[*]} $SOCKET_DROP_IN} " in
      *" $unit "*) continue ;;
    esac
    # What somebody has set up by hand is theirs.
    if [ -n "$(written_sum "$unit")" ]; then take_away_unit "$unit"; fi
  done
}

# A drop-in of somebody's that needs the sockets would outlive them.
refuse_sockets_by_hand() {
  local file
  [ -z "$(written_sum "$SOCKET_DROP_IN")" ] || return 0
  for file in "$UNITS/$SERVICE.d"/*.conf; do
    if grep -qsF "$HTTPS_SOCKET" "$file"; then
      die "sockets were set up by hand: $file" 'remove that file, and try again'
    fi
  done
}

# take_away_unit UNIT : of the sockets. What enables one has to go while the unit is there.
take_away_unit() {
  local file
  file=$(unit_file "$1")
  taken+=("$file")
  if [ "$1" != "$SOCKET_DROP_IN" ]; then
    closing+=("$1")
    if is_enabled "$1"; then systemctl disable --quiet "$1" || die "$1 cannot be disabled"; fi
  fi
  take_away "$file"
}

# The port that redirects, as the config has it; 0 for none.
redirect_port() {
  if [ "${answer[certificate]}" = off ]; then
    say 0
  else
    first "$(toml_value "$CONFIG" server http_port)" 80
  fi
}

# listen_stream PORT : where the relay would listen by itself, as systemd writes it.
listen_stream() {
  local host
  [[ $1 =~ ^[1-9][0-9]*$ ]] || die "systemd cannot keep a port that is not known before: $1" \
    'give it as a number: --port, --http-port; or --sockets no'
  host=$(toml_value "$CONFIG" server host)
  # SECURITY: plain HTTP, for a proxy on this machine, is not for others.
  if [ -z "$host" ] && [ "${answer[certificate]}" = off ]; then host=127.0.0.1; fi
  case $host in
    '' | ::) say "$1" ;;
    *) say "$(bracketed "$host"):$1" ;;
  esac
}

# print_unit UNIT : as the new program has it, sockets with the ports of the config.
print_unit() {
  local stream
  case $1 in
    "$HTTPS_SOCKET") stream=$(listen_stream "${answer[port]}") || exit ;;
    "$HTTP_SOCKET") stream=$(listen_stream "$(redirect_port)") || exit ;;
    *)
      "$new" unit "$1"
      return
      ;;
  esac
  "$new" unit "$1" | sed "s/^ListenStream=.*/ListenStream=$stream/"
}

place_program() {
  place "$BINARY" 755 root
  new=$BINARY
}

declare -A unit_sums=()
write_unit() {
  local file was_changed=$changed
  file=$(unit_file "$1")
  print_unit "$1" >"$(staged "$file")" || die "$file cannot be written"
  if is_edited "$1"; then
    if stays "$1"; then
      if is_another "$1"; then
        note "$file has been edited and stays; $version has another: parley-relay unit $1"
        note '  --replace-units puts that in its place'
      fi
      rm -f "$(staged "$file")"
      return
    fi
    back_up "$file"
    note "$file was somebody's own and is ours now; theirs is kept in $backups"
  fi
  case $1 in
    "$SERVICE" | "$SOCKET_DROP_IN" | *.socket)
      changed=''
      place "$file" 644 root
      if [ -n "$changed" ]; then
        case $1 in
          *.socket) closing+=("$1") ;;
          *) hands_over='' ;;
        esac
      fi
      changed=$changed$was_changed
      ;;
    *) place_aside "$file" 644 "$file is that of $version" ;;
  esac
  unit_sums[$1]=$(sha256 "$file")
}

# written_sum UNIT : the SHA-256 of the unit as it was last written by this script or by `parley-relay update`.
written_sum() {
  [ -r "$MANIFEST" ] || return 0
  sed -n "s/^unit $1 //p" "$MANIFEST" | head -n 1
}

# print_before UNIT : as the program prints it that this run replaces, for a manifest that has no checksums.
print_before() {
  local program=$BINARY
  if [ -e "$(kept "$BINARY")" ]; then program=$(kept "$BINARY"); fi
  "$program" unit "$1" 2>/dev/null || true
}

# is_as_written UNIT FILE : whether FILE is the unit as we last wrote it.
is_as_written() {
  local written
  written=$(written_sum "$1")
  if [ -n "$written" ]; then
    [ "$(sha256 "$2")" = "$written" ]
  else
    print_before "$1" | cmp -s - "$2"
  fi
}

# is_edited UNIT : whether what is on disk is somebody's own.
is_edited() {
  local file
  file=$(unit_file "$1")
  [ -f "$file" ] && ! cmp -s "$file" "$(staged "$file")" || return 1
  if is_installed; then
    if is_as_written "$1" "$file"; then return 1; fi
  else
    # That of the relay before has been backed up.
    [[ " ${old_units[*]} " != *" $1 "* ]]
  fi
}

# is_another UNIT : whether the new program has another unit than the one that was edited.
is_another() {
  if is_as_written "$1" "$(staged "$(unit_file "$1")")"; then return 1; fi
}

# stays UNIT : whether one that somebody edited does: it is our service's, and can do what was asked for now.
stays() {
  local file
  [ -z "$replace_units" ] && is_installed || return 1
  file=$(unit_file "$1")
  case $1 in
    *.socket) [[ " $(ports_of "$file") " == *" $(ports_of "$(staged "$file")") "* ]] ;;
  esac
}

# ports_of FILE : those of a socket unit, in one line.
ports_of() { sed -n 's/^ListenStream=\(.*:\)\{0,1\}\([0-9]*\)$/\2/p' "$1" | paste -s -d ' '; }

# The schedule as systemd's calendar expression.
calendar() {
  local time=${answer[update-time]:-04:00} expression
  case ${answer[updates]} in
    hourly) expression='*-*-* *:00' ;;
    daily) expression="*-*-* $time" ;;
    weekly) expression="Sun *-*-* $time" ;;
    monthly) expression="*-*-01 $time" ;;
    *) expression=${answer[updates]} ;;
  esac
  if command -v systemd-analyze >/dev/null && ! systemd-analyze calendar "$expression" >/dev/null 2>&1; then
    die "systemd does not understand this time: $expression"
  fi
  say "$expression"
}

# What was installed, for the next run and for uninstall.
write_manifest() {
  local file unit sum was_changed=$changed
  {
    say '# What install.sh has put on this machine, and the answers that are not in config.toml.'
    for file in directory updates update-time sockets; do
      if [ -n "${answer[$file]:-}" ]; then say "$file=${answer[$file]}"; fi
    done
    if made_account; then say account=made; fi
    # What was last written by us: what is on disk and is another has been edited.
    for unit in "$SERVICE" "${UPDATE_UNITS[@]}" "${sockets[@]}" ${sockets:+"$SOCKET_DROP_IN"}; do
      sum=${unit_sums[$unit]:-$(written_sum "$unit")}
      if [ -n "$sum" ]; then say "unit $unit $sum"; fi
    done
    {
      printf 'file %s\n' "${placed[@]}" "$MANIFEST"
      if [ -r "$MANIFEST" ]; then grep '^file ' "$MANIFEST"; fi
    } | sort -u | grep -vxF "$(printf 'file %s\n' "${taken[@]}")"
  } >"$(staged "$MANIFEST")" || die "$MANIFEST cannot be written"
  place "$MANIFEST" 644 root
  # It is no reason to restart anything.
  changed=$was_changed
}

# back_up FILE… : copies, for a person who wants them back.
backups=''
back_up() {
  if [ -z "$backups" ]; then
    backups=${answer[directory]}/backup/$(date +%Y%m%d-%H%M%S)
    remember "rmtree $backups"
    make_directory "$backups"
    chmod 700 "$backups"
  fi
  cp -pL "$@" "$backups/" || die "$backups cannot be written" 'is the disk full?'
}

back_up_older() {
  local unit file
  [ "${#old_units[@]}" -gt 0 ] || return 0
  for unit in "${old_units[@]}"; do back_up "$UNITS/$unit"; done
  for file in "$old_config" "$old_nginx" "$old_cert" "$old_key"; do
    if [ -f "$file" ]; then back_up "$file"; fi
  done
  note "The older relay's config, units and certificate are kept in $backups"
}

# certbot would go on renewing by way of a port and a unit that are ours now. Its line goes where nothing else
# needs it: the certificate renews itself from here on.
retire_certbot() {
  local lines=$work/crontab before others
  case $old_cert in
    "$LETSENCRYPT"/*) ;;
    *) return 0 ;;
  esac
  command -v crontab >/dev/null && crontab -l >"$lines" 2>/dev/null || return 0
  grep -q 'certbot renew.*parley-\(relay\|chat\)-nginx' "$lines" || return 0
  others=$(find "$LETSENCRYPT" -mindepth 1 -maxdepth 1 -type d | wc -l)
  if [ "$others" -gt 1 ]; then
    warn 'the crontab line that runs certbot stays, because there are other certificates; it names a unit that is off now'
    return 0
  fi
  back_up "$lines"
  before=$(kept "$ETC/crontab")
  remember "crontab $before"
  if [ ! -e "$before" ]; then cp "$lines" "$before" || no_room; fi
  grep -v 'certbot renew.*parley-\(relay\|chat\)-nginx' "$before" >"$lines" || true
  crontab "$lines" || die 'the crontab cannot be changed'
  note 'The crontab line that renewed the certificate is gone: the relay renews it.'
}

# Certificates that are there already are served from the first moment.
imported=''
take_over_certificate() {
  local directory=${old_cert%/*}
  by_acme || return 0
  case $old_cert in
    "$LETSENCRYPT"/*) ;;
    *) return 0 ;;
  esac
  if "$new" cert import "$directory" --storage "$(first "$(toml_value "$CONFIG" tls storage)" "$STORAGE")" >/dev/null; then
    note "The certificate in $directory is taken over"
    imported=1
  else
    warn "the certificate in $directory is not taken over: the relay asks for a new one"
  fi
}

order_by_dns() {
  [ "${answer[certificate]}" = dns ] && [ -z "${answer[dns-hook]:-}$imported" ] || return 0
  local order=(cert issue "${domains[@]}" --dns-manual --config "$CONFIG")
  if [ -n "$assume_yes" ]; then
    warn "the DNS record has to be set by hand: run $BINARY ${order[*]}"
  elif ! "$new" "${order[@]}" <&3; then
    warn "there is no certificate yet; try again with: $BINARY ${order[*]}"
  fi
}

# Whether the relay answers, on its own port and as its clients ask it.
answers() {
  local port=${answer[port]} host
  host=$(toml_value "$CONFIG" server host)
  case $host in
    '' | :: | 0.0.0.0) host=127.0.0.1 ;;
  esac
  is_active "$SERVICE" || return 1
  if "$BINARY" health --help >/dev/null 2>&1; then
    "$BINARY" health --config "$CONFIG" >/dev/null 2>&1
  elif [ "${answer[certificate]}" = off ]; then
    is_listening "$port"
  elif command -v curl >/dev/null; then
    curl --silent --insecure --max-time 5 --output /dev/null \
      --connect-to "::$(bracketed "$host"):$port" "https://$(bracketed "${domains[0]}"):$port/"
  elif command -v openssl >/dev/null; then
    openssl s_client -connect "$(bracketed "$host"):$port" -servername "${domains[0]}" </dev/null 2>/dev/null |
      grep -q 'BEGIN CERTIFICATE'
  else
    is_listening "$port"
  fi
}

main_pid() { systemctl show --value --property=MainPID "$SERVICE" 2>/dev/null || true; }

# is_well [PID] : whether what runs is what is on disk, and another process than that one, and answers.
is_well() { [ "$(main_pid)" != "${1:-}" ] && runs_binary && answers; }

# Whether the program on disk is the one that runs, and has not been put there since. What is neither, such as a
# script's interpreter, is not looked into; with `only`, it is no.
runs_binary() {
  local pid real
  pid=$(main_pid)
  # Behind a link, where /usr/local is one.
  real=$(readlink -m "$BINARY")
  case $(readlink "/proc/${pid:-0}/exe" || true) in
    "$real" | "$real (deleted)") [ "/proc/$pid/exe" -ef "$BINARY" ] ;;
    *) [ $# = 0 ] ;;
  esac
}

bracketed() {
  case $1 in
    *:*) say "[$1]" ;;
    *) say "$1" ;;
  esac
}

# Whether the process that runs can let another take over; until then, it serves.
hands_over=''

# The process that runs starts the program on disk, with the config on disk, and lets it take over when it is ready:
# no port is closed, and nothing that is open ends.
hand_over() {
  local asking=$BINARY told code=0
  [ -n "$hands_over" ] && [ "${answer[sockets]}" = no ] && [ "${#closing[@]}" = 0 ] || return 1
  # The program that worked until now asks for it: it can be waited for.
  if [ -e "$(kept "$BINARY")" ]; then asking=$(kept "$BINARY"); fi
  told=$(timeout 60 "$asking" upgrade --config "$CONFIG" 2>&1) || code=$?
  case $code in
    0) ;;
    75)
      # It goes on, and is not started again for what is undone now.
      service_touched=''
      die 'the new process is not fit to take over; the one that runs goes on' "$told"
      ;;
    *) return 1 ;;
  esac
  wait_for_answer
}

# Has the service run what is on disk, and waits until it answers.
start_service() {
  local unit before
  service_touched=1
  systemctl daemon-reload || die 'systemd does not take the units'
  for unit in "${sockets[@]}" "$SERVICE"; do
    is_enabled "$unit" || remember "disable $unit"
    systemctl enable --quiet "$unit" || die "$unit cannot be enabled"
  done
  if hand_over; then return; fi
  # A socket that listens elsewhere from now on. One that goes leaves its port to the relay that still runs, so that
  # it is not refused for longer than the restart takes; then the service, which stops first, starts its sockets.
  for unit in "${closing[@]}"; do
    if is_active "$unit"; then systemctl stop "$unit" || die "$unit cannot be stopped"; fi
  done
  before=$(main_pid)
  # Not waited for: systemd gives a program that never gets ready more time than --wait says.
  systemctl restart --no-block "$SERVICE" || failed_to_answer
  wait_for_answer "$before"
}

# wait_for_answer [PID] : of another process than that one.
wait_for_answer() {
  local second=0
  while [ "$second" -lt "$wait_for" ]; do
    if is_well "$@"; then return; fi
    sleep 1
    # What is open on the one before may end first: that is no time of the new one.
    [ "$(systemctl show --value --property=ActiveState "$SERVICE" 2>/dev/null)" = deactivating ] || second=$((second + 1))
  done
  is_well "$@" || failed_to_answer
}

# Nothing is new; but somebody may have stopped it, or changed the program under it.
start_unless_well() {
  if is_well; then return; fi
  if runs_binary; then
    say 'The relay does not answer: it is started anew ...'
  else
    say 'The relay runs a program that is not the one on disk: it is started anew ...'
  fi
  start_service
}

failed_to_answer() {
  say '' >&2
  if command -v journalctl >/dev/null; then journalctl --no-pager -q -n 15 -u "$SERVICE" -u "$HTTPS_SOCKET" -u "$HTTP_SOCKET" >&2 || true; fi
  die "the relay does not answer on port ${answer[port]}" "its log: journalctl -u $SERVICE"
}

# Automatic updates fail where nobody looks: whether they can get at the mirror is told now.
warn_of_updates() {
  local told code=0
  [ -z "$downloaded" ] || [ "$action" = modify ] || return 0
  told=$(timeout 60 "$BINARY" update --check --config "$CONFIG" 2>&1) || code=$?
  case $code in
    0 | 1) ;;
    *)
      warn "automatic updates are on, and would fail now: $(sed -n 's/^error: //p' <<<"$told" | head -n 1)"
      note '--mirror names another place, --proxy a proxy on the way; --updates off turns them off'
      ;;
  esac
}

set_timer() {
  if [ "${answer[updates]}" != off ]; then
    if ! { systemctl enable --quiet "$TIMER" && systemctl restart "$TIMER"; }; then
      warn 'automatic updates could not be turned on'
    fi
    warn_of_updates
  elif is_enabled "$TIMER"; then
    if ! { systemctl stop "$TIMER" && systemctl disable --quiet "$TIMER"; }; then
      warn 'automatic updates could not be turned off'
    fi
  fi
}

check_ports() {
  local port
  for port in "${answer[port]}" "${answer[http_port]:-80}"; do
    [[ $port =~ ^[0-9]+$ ]] || continue
    [ "$port" != 0 ] || continue
    if [ "${answer[certificate]}" = off ] && [ "$port" != "${answer[port]}" ]; then continue; fi
    if is_listening "$port"; then
      die "port $port is taken by another program" "which one: ss -ltnp 'sport = :$port'" \
        '--port and --http-port choose others'
    fi
  done
}

# --- Actions ---------------------------------------------------------------------------------------------------------

do_install() {
  local unit replace=yes
  find_older
  if [ -f "$CONFIG" ]; then base_config=$CONFIG; else base_config=$old_config; fi
  if [ "${#old_units[@]}" -gt 0 ]; then
    say "An older relay or nginx is here: ${old_units[*]}"
    replace=${given[take-over]:-}
    if [ -z "$replace" ]; then
      if confirm_take_over; then replace=yes; else replace=no; fi
    elif [ "$replace" = yes ] && [ "${#old_others[@]}" -gt 0 ]; then
      warn 'its nginx stops, and with it goes:'
      printf '         %s\n' "${old_others[@]}" >&2
    fi
    if [ "$replace" != yes ]; then
      for unit in "${old_units[@]}"; do
        [ "$unit" != "$SERVICE" ] || die 'both relays have one service name: the older one has to go' '--take-over yes'
      done
      old_units=() old_port='' old_cert='' old_key='' old_name='' old_port80=''
    else
      check_site
    fi
  fi
  get_program
  ask_everything
  check_mirror_is_seen
  check_mirror_is_ours
  say ''
  say "Installing $version ..."
  take_up
  make_directories
  make_account
  back_up_older
  make_certificate_readable
  write_config
  make_storage
  take_over_certificate
  order_by_dns
  for unit in "${old_units[@]}"; do retire "$unit"; done
  if ! is_active "$SERVICE" && ! is_active "$HTTPS_SOCKET"; then check_ports; fi
  undo_service_state
  place_program
  write_units
  write_manifest
  if [ -z "$changed" ] && is_well; then
    commit
    tell_unchanged 'Nothing has changed: it is installed, and it answers.'
    set_timer
    tell_rest
    return
  fi
  retire_certbot
  start_service
  commit
  set_timer
  tell_where
  tell_rest
}

# Whether the older relay goes. What its nginx serves besides would go with it: that takes a clear yes.
confirm_take_over() {
  if [ "${#old_others[@]}" -eq 0 ]; then
    confirm 'Take its place, with its config and certificate?' yes
    return
  fi
  [ -z "$assume_yes" ] || die 'its nginx serves other sites too, which would be gone:' "${old_others[@]}" \
    'have another nginx serve them, or give --take-over yes; nothing has been changed'
  warn 'its nginx serves other sites too:'
  printf '         %s\n' "${old_others[@]}" >&2
  confirm 'Take its place all the same? They are served no more' no
}

# What cannot be known or kept of the older nginx, if there is one, before anything is changed.
check_site() {
  # Names that are given, or in the relay's config already, are none of nginx's.
  if [ "${old_units[*]}" = "$SERVICE" ] || [ -n "${domains[*]}$(present tls domains)" ]; then return; fi
  if [ -z "$old_port" ] && [ "${given[certificate]:-}" != off ]; then
    die "which server of the older nginx is the relay's cannot be told: ${old_nginx:-its config cannot be read}" \
      '--domain, --certificate and --port say what the relay is to serve; nothing has been changed'
  fi
  [ "${#old_left_out[@]}" -eq 0 ] ||
    warn "names that the relay does not take over, and nobody serves any more: ${old_left_out[*]} (--domain gives each)"
}

# tell_unchanged TEXT : the text if nothing was written at all; else what was, for which the relay is not restarted.
tell_unchanged() {
  if [ "${#aside[@]}" -eq 0 ]; then
    say "$1"
    return
  fi
  say 'The relay stays as it is. What has changed:'
  printf '  %s\n' "${aside[@]}"
  # Of units that updates run.
  systemctl daemon-reload || warn 'systemd has not read the units anew: systemctl daemon-reload'
}

# The state of the service and its sockets, to go back to. Of a service that is new it is undone with its unit; that
# of an older relay has been retired.
undo_service_state() {
  local unit
  [ -f "$UNITS/$SERVICE" ] && [[ " ${old_units[*]} " != *" $SERVICE "* ]] || return 0
  for unit in $(present_sockets) "$SERVICE"; do remember_state "$unit"; done
}

do_modify() {
  is_installed || die 'the relay is not installed'
  new=$BINARY
  version=$("$new" --version)
  base_config=$CONFIG
  if [ "$mirror" != "$RELEASES" ] || command -v curl >/dev/null || command -v wget >/dev/null; then downloaded=1; fi
  work=$(mktemp -d) || no_room
  ask_everything
  check_mirror_is_seen
  check_mirror_is_ours
  say ''
  take_up
  make_directories
  make_certificate_readable
  write_config
  undo_service_state
  write_units
  write_manifest
  if [ -n "$changed" ]; then
    order_by_dns
    start_service
  else
    tell_unchanged 'Nothing has changed.'
    start_unless_well
  fi
  commit
  set_timer
  tell_where
  tell_rest
}

do_update() {
  is_installed || die 'the relay is not installed'
  local before
  before=$("$BINARY" --version 2>/dev/null || true)
  base_config=$CONFIG
  get_program
  recall
  check_mirror_is_seen
  check_mirror_is_ours
  if ! "$new" check "$CONFIG" >/dev/null; then
    "$BINARY" check "$CONFIG" >/dev/null 2>&1 || die "$CONFIG is not valid" 'nothing has been changed; mend it, and try again'
    die "the new program does not take $CONFIG" 'nothing has been changed'
  fi
  take_up
  undo_service_state
  place_program
  write_units
  write_manifest
  if [ -z "$changed" ]; then
    say "$version is the newest already."
    [ "${#aside[@]}" -eq 0 ] || tell_unchanged
    start_unless_well
    commit
    return
  fi
  start_service
  commit
  if [ "$before" = "$version" ]; then
    say "Updated: the program is another one of the same version, $version."
  else
    say "Updated: $before is $version now."
  fi
}

# The answers of the last time, for an action that asks nothing.
recall() {
  local name
  for name in directory updates update-time sockets; do answer[$name]=$(setting "$name"); done
  answer[updates]=${answer[updates]:-off}
  answer[sockets]=${answer[sockets]:-no}
  answer[certificate]=$(present_mode)
  case ${answer[certificate]} in
    off) answer[port]=$(first "$(present server port)" 7861) ;;
    *) answer[port]=$(first "$(present server port)" 443) ;;
  esac
  read -r -a domains <<<"$(first "$(present tls domains)" localhost)"
}

do_uninstall() {
  local file directory other packaged='' manifest=$MANIFEST units=("$TIMER")
  if [ -s "$UNFINISHED" ]; then
    undo_unfinished
    is_installed || return 0
  fi
  if ! is_installed; then
    refuse_packaged
    [ -f "$REMOVED" ] || die 'the relay is not installed'
    [ -n "$purge" ] || die 'the relay is not installed any more' '--purge removes its config and certificates too'
    manifest=$REMOVED
  fi
  directory=$(sed -n 's/^directory=//p' "$manifest" | head -n 1)
  other=$(toml_value "$CONFIG" tls storage)
  # Config, certificates and account are the package's by now.
  if is_packaged; then
    [ -z "$purge" ] || warn 'a Debian package has the config and certificates too: they stay; apt purge parley-relay'
    purge='' packaged=1
  fi
  if ! confirm 'Remove the relay from this machine?' "${assume_yes:+yes}"; then
    say 'Cancelled.'
    return
  fi
  if [ -z "$purge$assume_yes$packaged" ] && confirm "Remove its config and certificates too ($ETC, $STORAGE)?" no; then
    purge=1
  fi
  # An automatic update that is at work would put back what is removed.
  systemctl stop parley-relay-update.service 2>/dev/null || true
  lock
  for file in "${SOCKETS[@]}"; do
    if [ -n "$(written_sum "$file")" ]; then units+=("$file"); fi
  done
  if is_installed; then
    for file in "${units[@]}" "$SERVICE"; do systemctl disable --quiet "$file" 2>/dev/null || true; done
    systemctl stop "${units[@]}" "$SERVICE" 2>/dev/null || true
  fi
  if is_installed; then save_edited "$directory"; fi
  while read -r file; do
    case $file in
      # Last, so that an uninstall that is cut off can be run again.
      "$MANIFEST" | "$REMOVED") continue ;;
      "$ETC"/*) [ -n "$purge" ] || continue ;;
      # What has come to be there since is somebody's own.
      *) [ "$manifest" = "$MANIFEST" ] || continue ;;
    esac
    rm -f "$file"
  done < <(sed -n 's/^file //p' "$manifest")
  while read -r file; do rm -f "$file"; done < <(leftovers)
  # The mark is that of `parley-relay update`.
  rm -f "$BINARY.previous" "${BINARY%/*}/.${BINARY##*/}.unfinished" "$UNFINISHED"
  rmdir "$UNITS/$TIMER.d" 2>/dev/null || true
  rmdir "$UNITS/$SERVICE.d" 2>/dev/null || true
  systemctl daemon-reload || true
  # Of what is gone, systemd would tell for ever that it failed.
  systemctl reset-failed "${UPDATE_UNITS[@]}" "$SERVICE" 2>/dev/null || true
  if [ -n "$purge" ]; then
    empty_storage "$other"
    # Keys that were copied for the account, which goes.
    rm -rf "$ETC/tls"
    rm -f "$CONFIG.bak" "$UPDATE_KEY" "$UPDATE_ENV"
    if made_account; then
      userdel "$ACCOUNT" 2>/dev/null || true
    else
      note "The user $ACCOUNT was there before the relay, and stays: userdel $ACCOUNT"
    fi
    rm -f "$REMOVED" "$MANIFEST"
    rmdir "$ETC" 2>/dev/null || true
  elif [ -f "$MANIFEST" ]; then
    mv -f "$MANIFEST" "$REMOVED"
  fi
  # The front end's files and the backups are somebody's own.
  rmdir "$directory/mura" "$directory" 2>/dev/null || true
  say 'The relay has been removed.'
  [ -n "$purge" ] || note "Its config and certificates are still in $ETC and $STORAGE."
  if [ -d "$directory/backup" ]; then
    note "What was here before it is in $directory/backup: a unit from there goes back with"
    note "  cp UNIT $UNITS/ && systemctl daemon-reload && systemctl enable --now UNIT"
  fi
}

# save_edited DIRECTORY : copies of the units that somebody edited, which go now.
save_edited() {
  local unit file
  for unit in "$SERVICE" "${UPDATE_UNITS[@]}" "${SOCKETS[@]}"; do
    file=$UNITS/$unit
    if [ ! -f "$file" ] || ! grep -qxF "file $file" "$MANIFEST" || is_as_written "$unit" "$file"; then continue; fi
    if mkdir -p "$1/backup" && cp -p "$file" "$1/backup/"; then note "$file was somebody's own: a copy is in $1/backup"; fi
  done
}

# empty_storage OTHER : removes keys and certificates, where the directory is a link or a mount too. OTHER is where the
# config has them.
empty_storage() {
  if [ -n "$1" ] && [ "$1" != "$STORAGE" ]; then note "The config had its keys in $1: they stay."; fi
  [ -d "$STORAGE" ] || return 0
  find "$STORAGE/" -mindepth 1 -delete || warn "not everything in $STORAGE could be removed"
  if [ -L "$STORAGE" ]; then
    note "$STORAGE was a link to $(readlink -f "$STORAGE"): that is empty now, and stays."
    rm -f "$STORAGE"
  else
    rmdir "$STORAGE" 2>/dev/null || note "$STORAGE itself stays: it is a mount, or not empty."
  fi
}

# Before an uninstall: what a run has stopped that was cut off is not to stay so.
undo_unfinished() {
  say 'An installation or an update was cut off before its end.'
  confirm 'Undo it?' "${assume_yes:+yes}" || die 'cancelled' 'install.sh install or update would finish it'
  lock
  find_unfinished
  undo=("${earlier[@]}")
  earlier=() service_touched=1
  roll_back
  undo=()
}

do_doctor() {
  local program=$BINARY
  if ! is_installed; then
    is_packaged || die 'the relay is not installed'
    program=/usr/bin/parley-relay
  fi
  "$program" doctor --config "$CONFIG"
}

tell_where() {
  local url prefix
  prefix=$(toml_value "$CONFIG" '' uri_prefix)
  say ''
  if [ "${answer[certificate]}" = off ]; then
    say "The relay is running on port ${answer[port]}. Point the proxy in front of it there."
    return
  fi
  url=https://$(bracketed "${domains[0]}")
  [ "${answer[port]}" = 443 ] || url=$url:${answer[port]}
  say "The relay is running at $url/${prefix:+$prefix/}"
  if [ "${answer[frontend]#/}" != "${answer[frontend]}" ] && [ ! -f "${answer[frontend]}/index.html" ]; then
    note "The front end's files (Mura) belong in ${answer[frontend]}."
  elif [ "${answer[frontend]#/}" != "${answer[frontend]}" ]; then
    check_frontend
  fi
  case ${answer[certificate]} in
    self-signed) tell_authority ;;
    auto) if is_local "${domains[0]}"; then tell_authority; fi ;;
    dns)
      if [ -z "${answer[dns-hook]:-}" ]; then
        note 'A certificate that was ordered by hand has to be ordered again before it expires:'
        note "  $BINARY cert issue ${domains[*]} --dns-manual"
      fi
      ;;
  esac
  if [ "${#copied[@]}" -gt 0 ]; then tell_renewal; fi
  if [ "${answer[certificate]}" = files ] && command -v openssl >/dev/null; then
    note "certificate: $(openssl x509 -in "${answer[cert]}" -noout -fingerprint -sha256 2>/dev/null)"
  fi
}

# Where things are, and what is not well around the relay: its own doctor knows. None of that undoes anything.
tell_rest() {
  local found
  note "Its config is $CONFIG; after a change there: systemctl reload ${SERVICE%.service}"
  if [ "${answer[updates]}" = off ]; then
    note 'Automatic updates are off: install.sh modify --updates weekly turns them on.'
  fi
  has doctor || return 0
  found=$(timeout 60 "$new" doctor --config "$CONFIG" 2>&1 |
    awk '/^(ok|warning|error)[ :]/ { shown = $1 != "ok" } shown') || true
  [ -n "$found" ] || return 0
  say ''
  say 'What is not well around it, as parley-relay doctor tells:'
  say "$found"
}

# What was copied once is not copied again by itself.
tell_renewal() {
  local line=''
  printf -v line '%s && ' "${copied[@]}"
  note "The copies of the certificate's files stay as they are when yours are renewed. Have what renews them run:"
  note "  ${line}systemctl reload ${SERVICE%.service}"
}

# The service sees no home directories, and reads what its account may read.
check_frontend() {
  case ${answer[frontend]} in
    /home/* | /root/* | /run/user/*)
      warn "the service does not see ${answer[frontend]}: move it to ${answer[directory]}," \
        "or set ProtectHome=read-only: systemctl edit $SERVICE"
      ;;
    *)
      if ! as_account test -r "${answer[frontend]}/index.html"; then
        warn "the account $ACCOUNT may not read ${answer[frontend]}: chmod -R a+rX ${answer[frontend]}"
      fi
      ;;
  esac
}

# The local CA, with its fingerprint as a code for a phone's camera.
tell_authority() {
  say ''
  "$BINARY" ca --storage "$(first "$(toml_value "$CONFIG" tls storage)" "$STORAGE")" || warn 'the local CA cannot be shown; try: parley-relay ca'
}

menu() {
  local reply=''
  say ''
  say '=== Parley Chat relay ==='
  say ''
  say '[I] Install'
  say '[U] Update'
  say '[M] Modify'
  say '[X] Uninstall'
  say '[D] Doctor: what is not well, and what to do'
  say ''
  while :; do
    prompt '> '
    case $reply in
      [Ii]) action=install ;;
      [Uu]) action=update ;;
      [Mm]) action=modify ;;
      [Xx]) action=uninstall ;;
      [Dd]) action=doctor ;;
      *)
        say 'I, U, M, X or D, please'
        continue
        ;;
    esac
    return
  done
}

main() {
  read_flags "$@"
  read_secrets
  [ "$(id -u)" = 0 ] || die 'run this as root: sudo bash install.sh'
  command -v systemctl >/dev/null || die 'this installs a systemd service, and there is no systemd here' \
    'the program runs without: parley-relay --help'
  open_terminal
  if [ -z "$action" ]; then
    if [ -n "$assume_yes" ]; then action=install; else menu; fi
  fi
  if [ "$action" != uninstall ] && [ "$action" != doctor ]; then
    refuse_packaged
    lock
    find_unfinished
    [ -z "$public_key" ] || [ -f "$public_key" ] || die "there is no key $public_key"
    choose_mirror
    choose_proxy
    check_mirror
  fi
  trap finish EXIT
  trap "trap '' HUP INT TERM; exit 129" HUP
  trap "trap '' HUP INT TERM; exit 130" INT
  trap "trap '' HUP INT TERM; exit 143" TERM
  "do_$action"
}

# Last, so that half a script that came through a pipe does nothing.
main "$@"
