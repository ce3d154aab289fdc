#!/bin/sh
# Two 32-bit programs: one of what only compatibility mode has, one that prints what the 64-bit program prints.
set -eu

compat
doubles32 > /tmp/32.text
doubles > /tmp/64.text
cmp /tmp/32.text /tmp/64.text
echo "compat: $(wc -l < /tmp/32.text) lines of numbers as in 64 bits"
rm /tmp/32.text /tmp/64.text
