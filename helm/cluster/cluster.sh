#!/usr/bin/env bash
# Start or stop a real Kubernetes API server on loopback: etcd, kube-apiserver and kube-controller-manager, no node.
#   cluster.sh start|stop DIR
# `start` waits until the server is ready; DIR/state/kubeconfig is for kubectl and helm. Needs what build.sh left in DIR/bin.
# Stops only what it started, by process id. Everything is below DIR.
set -euo pipefail

dir=$2
bin=$dir/bin
state=$dir/state
port=${PORT:-16443}
etcd_port=${ETCD_PORT:-12379}

launch() { # NAME COMMAND...
  setsid "${@:2}" >"$state/$1.log" 2>&1 </dev/null &
  echo $! >"$state/$1.pid"
}

stop() {
  local name pid
  for name in kube-controller-manager kube-apiserver etcd; do
    [ -f "$state/$name.pid" ] || continue
    pid=$(cat "$state/$name.pid")
    # The number may be another process' by now: ask for its name first.
    if grep -aq "/$name" "/proc/$pid/cmdline" 2>/dev/null; then
      kill "$pid"
      for _ in $(seq 100); do [ -d "/proc/$pid" ] || break; sleep 0.1; done
      if [ -d "/proc/$pid" ]; then kill -KILL "$pid"; fi
    fi
    rm -f "$state/$name.pid"
  done
}

start() {
  local token
  stop
  rm -rf "$state" && mkdir -p "$state" && chmod 700 "$state"
  token=$(openssl rand -hex 16)
  echo "$token,admin,admin,system:masters" >"$state/tokens.csv"
  openssl genrsa -out "$state/sa.key" 2048 2>/dev/null
  launch etcd "$bin/etcd" --data-dir "$state/etcd" --unsafe-no-fsync \
    --listen-client-urls "http://127.0.0.1:$etcd_port" --advertise-client-urls "http://127.0.0.1:$etcd_port" \
    --listen-peer-urls "http://127.0.0.1:$((etcd_port + 1))" --initial-advertise-peer-urls "http://127.0.0.1:$((etcd_port + 1))" \
    --initial-cluster "default=http://127.0.0.1:$((etcd_port + 1))"
  launch kube-apiserver "$bin/kube-apiserver" --etcd-servers "http://127.0.0.1:$etcd_port" \
    --bind-address 127.0.0.1 --secure-port "$port" --insecure-port 0 --cert-dir "$state/certs" \
    --endpoint-reconciler-type none --service-cluster-ip-range 10.96.0.0/24 \
    --service-account-issuer https://kubernetes.default.svc \
    --service-account-signing-key-file "$state/sa.key" --service-account-key-file "$state/sa.key" \
    --token-auth-file "$state/tokens.csv" --authorization-mode Node,RBAC \
    --enable-admission-plugins NodeRestriction
  cat >"$state/kubeconfig" <<EOF
apiVersion: v1
kind: Config
current-context: local
contexts: [{name: local, context: {cluster: local, user: admin, namespace: default}}]
clusters: [{name: local, cluster: {server: "https://127.0.0.1:$port", insecure-skip-tls-verify: true}}]
users: [{name: admin, user: {token: "$token"}}]
EOF
  chmod 600 "$state/kubeconfig"
  for _ in $(seq 240); do
    [ "$("$bin/kubectl" --kubeconfig "$state/kubeconfig" get --raw /readyz 2>/dev/null)" = ok ] && break
    sleep 0.5
  done
  [ "$("$bin/kubectl" --kubeconfig "$state/kubeconfig" get --raw /readyz)" = ok ]
  if [ -x "$bin/kube-controller-manager" ]; then
    launch kube-controller-manager "$bin/kube-controller-manager" --kubeconfig "$state/kubeconfig" --leader-elect=false \
      --bind-address 127.0.0.1 --port 0 --cert-dir "$state/certs" --service-account-private-key-file "$state/sa.key" \
      --use-service-account-credentials=false --controllers '*,bootstrapsigner'
    for _ in $(seq 120); do
      "$bin/kubectl" --kubeconfig "$state/kubeconfig" get serviceaccount default >/dev/null 2>&1 && break
      sleep 0.5
    done
  fi
}

case ${1:-} in
  start) start ;;
  stop) stop ;;
  *) echo "usage: $0 start|stop DIR" >&2 && exit 2 ;;
esac
