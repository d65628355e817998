module dpojob.io/hack/pod

go 1.26.0
