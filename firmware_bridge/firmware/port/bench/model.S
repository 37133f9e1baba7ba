/* The model image, in flash as a device would hold it. MODEL is its path. */
    .section .rodata.model, "a"
    .balign 16
    .global bench_image, bench_image_end
bench_image:
    .incbin MODEL
bench_image_end:
    .balign 4
