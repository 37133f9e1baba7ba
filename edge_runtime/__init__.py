"""The edge box: camera, preprocess, engine, verdict; needs numpy, OpenCV and one inference engine."""
