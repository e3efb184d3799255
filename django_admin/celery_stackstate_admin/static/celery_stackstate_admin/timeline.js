"use strict";
// The drawn timeline: one stop of the Tab key, arrow keys from mark to mark, and below it what the mark says.
(function () {
    let current = 0;

    function marks() {
        return Array.from(document.querySelectorAll(".ss-timeline .ss-mark"));
    }

    function stop() {
        const all = marks();
        current = Math.min(current, Math.max(0, all.length - 1));
        all.forEach(function (mark, index) { mark.setAttribute("tabindex", index === current ? "0" : "-1"); });
    }

    function tell(mark) {
        const detail = document.getElementById("ss-detail");
        if (detail) {
            detail.textContent = mark ? mark.getAttribute("aria-label") : "";
        }
    }

    function markOf(event) {
        return event.target.closest ? event.target.closest(".ss-timeline .ss-mark") : null;
    }

    // In the row above or below: the first mark that begins no earlier, else the row's last one.
    function across(mark, step) {
        const rows = Array.from(document.querySelectorAll(".ss-timeline .ss-lane")).filter(function (row) {
            return row.querySelector(".ss-mark");
        });
        const row = rows[rows.indexOf(mark.closest(".ss-lane")) + step];
        if (!row) {
            return mark;
        }
        const left = mark.getBoundingClientRect().left;
        const there = Array.from(row.querySelectorAll(".ss-mark"));
        return there.find(function (one) { return one.getBoundingClientRect().left >= left - 1; }) || there[there.length - 1];
    }

    function target(key, mark, all) {
        const index = all.indexOf(mark);
        switch (key) {
        case "ArrowRight": return all[Math.min(all.length - 1, index + 1)];
        case "ArrowLeft": return all[Math.max(0, index - 1)];
        case "ArrowDown": return across(mark, 1);
        case "ArrowUp": return across(mark, -1);
        case "Home": return all[0];
        case "End": return all[all.length - 1];
        default: return null;
        }
    }

    function onKey(event) {
        const mark = markOf(event);
        const next = mark && !event.ctrlKey && !event.altKey && !event.metaKey ? target(event.key, mark, marks()) : null;
        if (next) {
            event.preventDefault();
            next.focus();
        }
    }

    // A bar leads to its attempt, which may be folded, inside of what is folded.
    function open(id) {
        for (let one = document.getElementById(id); one; one = one.parentElement) {
            if (one.nodeName === "DETAILS") {
                one.open = true;
            }
        }
    }

    function start() {
        const root = document.getElementById("ss-run");
        if (!root) {
            return;
        }
        root.addEventListener("keydown", onKey);
        root.addEventListener("focusin", function (event) {
            const mark = markOf(event);
            if (mark) {
                current = marks().indexOf(mark);
                stop();
                tell(mark);
            }
        });
        root.addEventListener("focusout", function (event) { if (markOf(event)) { tell(null); } });
        root.addEventListener("mouseover", function (event) { const mark = markOf(event); if (mark) { tell(mark); } });
        root.addEventListener("click", function (event) {
            const mark = markOf(event);
            const address = mark && mark.getAttribute("href");
            if (address) {
                open(address.slice(1));
            }
        });
        document.addEventListener("ss:refreshed", stop);
        if (location.hash.startsWith("#ss-attempt-")) {
            open(location.hash.slice(1));
        }
        stop();
    }

    if (document.readyState === "loading") {
        document.addEventListener("DOMContentLoaded", start);
    } else {
        start();
    }
})();
