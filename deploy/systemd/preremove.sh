#!/bin/sh
# deb says "remove" and rpm "0" when it goes for good; an upgrade says something else.
set -e
case "${1:-remove}" in
remove | 0)
	if [ -d /run/systemd/system ]; then
		systemctl disable --now bridge8x8.service || true
	fi
	;;
esac
