#!/bin/sh
# mmdebstrap runs this with the Debian tree of a node, $1, when its packages are installed. Out come two layers for the images
# that need more than one program, /layers/busybox.tar and /layers/iptables.tar, which are then taken out of the tree.
set -eu
chroot "$1" /bin/sh -eu <<'INSIDE'
pack() { tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -C "/layers/$1" -cf "/layers/$1.tar" .; rm -r "/layers/$1"; }

tree=/layers/busybox
mkdir -p $tree/bin $tree/etc $tree/tmp $tree/usr/bin $tree/usr/sbin $tree/var $tree/root
chmod 1777 $tree/tmp
cp /usr/bin/busybox $tree/bin/
for applet in $(busybox --list); do
  [ "$applet" = busybox ] || ln -s busybox "$tree/bin/$applet"
done
echo 'root:x:0:0:root:/root:/bin/sh' >$tree/etc/passwd
pack busybox

# The static busybox has no iptables: Debian's, with the libraries it asks for.
tree=/layers/iptables
mkdir -p $tree/usr/sbin $tree/run
cp /usr/sbin/xtables-nft-multi /usr/sbin/nft $tree/usr/sbin/
for name in iptables iptables-save iptables-restore ip6tables ip6tables-save ip6tables-restore; do
  ln -s xtables-nft-multi "$tree/usr/sbin/$name"
done
extensions=$(dirname "$(find /usr/lib -name libxt_tcp.so)")
mkdir -p "$tree$extensions"
cp "$extensions"/*.so "$tree$extensions/"
ldd /usr/sbin/xtables-nft-multi /usr/sbin/nft "$extensions"/*.so | grep -o '/[^ ]*\.so[^ :]*' | sort -u | while read -r library; do
  case $library in */xtables/*) continue ;; esac
  mkdir -p "$tree$(dirname "$library")"
  cp -L "$library" "$tree$library"
done
pack iptables

# kube-proxy and netd use nftables; the node must not mix.
for name in iptables ip6tables; do ln -sf "/usr/sbin/$name-nft" "/etc/alternatives/$name"; done
rm -rf /var/cache/* /var/log/*
INSIDE
