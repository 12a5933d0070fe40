// The definitions of prometheus-operator's kinds, by which tests/api judges what the chart renders of them. They are files of
// this module and none of its code is built, so `go mod tidy` would take the line away.
module vmail.dev/tests/chart/monitoring

go 1.26.0

require github.com/prometheus-operator/prometheus-operator v0.85.0
