module cluster/probed

go 1.26.0
