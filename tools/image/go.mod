module github.com/weirmesh/weir/tools/image

go 1.26.0
