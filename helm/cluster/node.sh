#!/usr/bin/env bash
# Give the API server of cluster.sh a node on this machine: a kubelet, containerd under it, and the scheduler.
#   node.sh start|stop DIR
#   node.sh import DIR ARCHIVE     an image (a docker-archive), for its pods
# As root, with the controllers of cgroup v1 mounted. `start` waits until the node is ready. Pods have addresses of their own
# on this machine, of 10.244.77.0/24; network policies are not enforced, and no service has an address that answers. Stops only
# what it started: its containers, and processes by their ids. Everything is below DIR but the pods' logs (/var/log/pods) and cgroups.
set -euo pipefail

dir=$(realpath "$2")
node=$dir/node
export PATH=$node/usr/bin:$node/usr/sbin:$dir/bin:$PATH KUBECONFIG=$dir/state/kubeconfig
containers() { ctr --address "$node/containerd.sock" --namespace k8s.io "$@"; }

launch() { # NAME COMMAND...
  setsid "${@:2}" >"$node/$1.log" 2>&1 </dev/null &
  echo $! >"$node/$1.pid"
}

end() { # NAME
  local pid
  [ -f "$node/$1.pid" ] || return 0
  pid=$(cat "$node/$1.pid")
  if grep -aq "$1" "/proc/$pid/cmdline" 2>/dev/null; then
    kill "$pid"
    for _ in $(seq 100); do [ -d "/proc/$pid" ] || break; sleep 0.1; done
    if [ -d "/proc/$pid" ]; then kill -KILL "$pid"; fi
  fi
  rm -f "$node/$1.pid"
}

stop() {
  local one place
  end kube-scheduler
  end kubelet
  if [ -S "$node/containerd.sock" ] && [ -f "$node/containerd.pid" ]; then
    for one in $(containers tasks ls --quiet); do containers tasks rm --force "$one" || true; done >/dev/null 2>&1
    for one in $(containers containers ls --quiet); do containers containers rm "$one" || true; done >/dev/null 2>&1
  fi
  end containerd
  awk -v below="$node/" 'index($2, below) == 1 { print $2 }' /proc/mounts | sort -r |
    while read -r place; do umount -l "$place"; done
  rm -rf "$node/kubelet" "$node/run" "$node/containerd.sock"
  find /sys/fs/cgroup/*/kubepods -depth -type d -exec rmdir {} + 2>/dev/null || true
}

start() {
  stop
  mkdir -p "$node"/{root,run,net,kubelet,pause}
  cat >"$node/containerd.toml" <<EOF
version = 2
root = "$node/root"
state = "$node/run"
[grpc]
  address = "$node/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  restrict_oom_score_adj = true
  cni = {bin_dir = "$node/usr/lib/cni", conf_dir = "$node/net"}
EOF
  cat >"$node/net/10-pods.conflist" <<EOF
{"cniVersion": "0.4.0", "name": "lorecall-pods", "plugins": [{"type": "ptp", "ipam": {"type": "host-local",
 "dataDir": "$node/run/addresses", "ranges": [[{"subnet": "10.244.77.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}
EOF
  cat >"$node/kubelet.yaml" <<EOF
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: 127.0.0.1
port: 16450
healthzPort: 0
cgroupDriver: cgroupfs
enforceNodeAllocatable: []
failSwapOn: false
makeIPTablesUtilChains: false
evictionHard: {memory.available: 100Mi, nodefs.available: 1Gi, imagefs.available: 1Gi}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
EOF
  launch containerd containerd --config "$node/containerd.toml"
  for _ in $(seq 100); do containers version >/dev/null 2>&1 && break; sleep 0.2; done
  if [ -z "$(containers images ls --quiet name==localhost/pause:1)" ]; then pause; fi
  launch kubelet kubelet --config "$node/kubelet.yaml" --kubeconfig "$KUBECONFIG" --root-dir "$node/kubelet" \
    --cert-dir "$node/kubelet/pki" --container-runtime remote --hostname-override node \
    --container-runtime-endpoint "unix://$node/containerd.sock" --pod-infra-container-image localhost/pause:1
  launch kube-scheduler kube-scheduler --kubeconfig "$KUBECONFIG" --leader-elect=false --port 0 --secure-port 0
  for _ in $(seq 120); do kubectl get node node >/dev/null 2>&1 && break; sleep 0.5; done
  kubectl wait --for=condition=Ready node/node --timeout=60s
}

# An archive of one file, made by hand: the image needs no builder.
pause() {
  local work layer
  work=$(mktemp -d)
  tar -C "$dir/bin" -cf "$work/layer.tar" pause
  layer=$(sha256sum "$work/layer.tar" | cut -d ' ' -f 1)
  echo '{"architecture": "amd64", "os": "linux", "config": {"Entrypoint": ["/pause"], "User": "65535"},' \
    "\"rootfs\": {\"type\": \"layers\", \"diff_ids\": [\"sha256:$layer\"]}}" >"$work/config.json"
  echo '[{"Config": "config.json", "RepoTags": ["localhost/pause:1"], "Layers": ["layer.tar"]}]' >"$work/manifest.json"
  tar -C "$work" -cf "$work/pause.tar" manifest.json config.json layer.tar
  containers images import "$work/pause.tar" >/dev/null
  rm -rf "$work"
}

case ${1:-} in
  start) start ;;
  stop) stop ;;
  import) containers images import "$3" ;;
  *) echo "usage: $0 start|stop DIR, or import DIR ARCHIVE" >&2 && exit 2 ;;
esac
