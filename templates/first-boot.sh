#!/bin/sh
# Installs packages when a machine of this image starts for the first time: it could not be done when
# the image was built. Until it has succeeded once it is started again.
set -eu
packages="@PACKAGES@"
marker=/var/lib/imgtool/first-boot.done
[ ! -e $marker ] || exit 0

# By the distribution's own name, then by those that it says it is like (os-release(5)).
ID= ID_LIKE=
for file in /etc/os-release /usr/lib/os-release; do
    if [ -r $file ]; then . $file; break; fi
done
family=
for name in $ID $ID_LIKE; do
    case $name in
        debian | ubuntu) family=apt ;;
        alpine) family=apk ;;
        fedora | rhel | centos) family=dnf ;;
        arch | archlinux) family=pacman ;;
        opensuse* | suse | sles) family=zypper ;;
        *) continue ;;
    esac
    break
done
# Package names have no spaces: this is a list.
case $family in
    apt)
        export DEBIAN_FRONTEND=noninteractive
        # apt-get update succeeds without an index unless told that any error is one.
        apt-get -q -o APT::Update::Error-Mode=any update
        apt-get -q -y --no-install-recommends -o Dpkg::Options::=--force-confdef \
            -o Dpkg::Options::=--force-confold install $packages
        ;;
    apk) apk add --no-progress $packages ;;
    dnf) dnf -y --setopt=install_weak_deps=False install $packages ;;
    pacman) pacman -Sy --noconfirm --needed $packages ;;
    zypper) zypper --non-interactive install --no-recommends $packages ;;
    *)
        echo "first-boot: no package manager is known for \"$ID\" (like \"$ID_LIKE\")" >&2
        exit 1
        ;;
esac
mkdir -p "${marker%/*}"
: >$marker
sync
