"""Measuring codecs: metrics, rate-distortion curves, classical peers, the bench and its report.

Use this room to compare codecs or weights; `licodec.encode` and `licodec.decode` need nothing of it. One set
of conventions holds everywhere (`anchors.json` repeats it): the rate is the size of the whole file, PSNR and
MS-SSIM are taken from 8-bit RGB pictures, per picture, and then averaged.

    from licodec.evaluation.bench import BenchOptions, bench
    from licodec.evaluation.report import markdown
    print(markdown(bench(BenchOptions(images="kodak", codecs=("fhic", "webp")))))

Reading order: `metrics`, `rate_distortion`, `pictures`, `peers`, `bench`, `environments`, `report`,
`compare`, `page`, `views`.
"""
