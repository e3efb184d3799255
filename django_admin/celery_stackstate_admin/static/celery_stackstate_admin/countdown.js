"use strict";
// Counts down what the page said when it was made. No clock of this machine is compared with the store's.
(function () {
    const units = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];

    function duration(seconds) {
        if (seconds < 59.95) {
            return Math.ceil(seconds) + " s";
        }
        let whole = Math.round(seconds);
        const parts = [];
        units.forEach(function (unit) {
            const count = Math.floor(whole / unit[0]);
            whole -= count * unit[0];
            if (count || parts.length) {
                parts.push(count ? count + " " + unit[1] : "");
            }
        });
        return parts.slice(0, 2).filter(Boolean).join(" ");
    }

    function show(element, passed) {
        const left = Number(element.dataset.left) - passed;
        const text = left > 0 ? element.dataset.words.replace("{time}", duration(left)) : element.dataset.over;
        if (element.textContent !== text) {
            element.textContent = text;
        }
        return left > 0;
    }

    document.addEventListener("DOMContentLoaded", function () {
        const begun = performance.now();
        let running = Array.from(document.querySelectorAll("time.ss-countdown[data-left]"));
        const timer = setInterval(tick, 1000);

        function tick() {
            const passed = (performance.now() - begun) / 1000;
            running = running.filter(function (element) {
                return show(element, passed);
            });
            if (!running.length) {
                clearInterval(timer);
            }
        }
    });
})();
