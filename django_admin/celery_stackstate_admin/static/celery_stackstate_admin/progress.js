"use strict";
// <stackstate-progress>: a bar that asks a run_status view how far a run is, until the run ends.
// Dispatches "stackstate:progress" with each answer and "stackstate:finished" with the last one; both bubble.
(function () {
    const SHORTEST = 1000, LONGEST = 10000, LONGEST_FAILING = 30000;
    // A run that was asked for just now may not be known for a moment.
    const UNKNOWN_TIMES = 5;
    const WORDS = {
        QUEUED: "waiting", RECEIVED: "waiting", STARTED: "running", RETRY: "retry", LOST: "lost",
        SUCCESS: "success", FAILURE: "failure", REJECTED: "failure", REVOKED: "stopped", IGNORED: "stopped",
    };

    class StackStateProgress extends HTMLElement {
        connectedCallback() {
            this.pause = SHORTEST;
            this.unknown = 0;
            this.seen = "";
            this.onVisible = () => {
                if (!document.hidden && this.timer) {
                    this.pause = SHORTEST;
                    this.schedule(0);
                }
            };
            document.addEventListener("visibilitychange", this.onVisible);
            this.schedule(0);
        }

        disconnectedCallback() {
            this.stop();
        }

        stop() {
            clearTimeout(this.timer);
            this.timer = null;
            document.removeEventListener("visibilitychange", this.onVisible);
        }

        schedule(after) {
            clearTimeout(this.timer);
            this.timer = setTimeout(() => this.poll(), after);
        }

        async poll() {
            if (document.hidden) {
                this.schedule(LONGEST);
                return;
            }
            let answer = null;
            try {
                const response = await fetch(this.dataset.url, {
                    credentials: "same-origin", cache: "no-store", headers: { Accept: "application/json" },
                });
                if (response.status === 404 && this.unknown < UNKNOWN_TIMES) {
                    this.unknown += 1;
                } else if (response.status >= 400 && response.status < 500) {
                    this.querySelector("progress").value = 0;
                    this.say("unknown");
                    this.stop();
                    return;
                } else if (response.ok) {
                    answer = await response.json();
                } else {
                    throw new Error(String(response.status));
                }
            } catch (error) {
                this.say("silent");
                this.pause = Math.min(LONGEST_FAILING, this.pause * 2);
            }
            if (!this.isConnected) {
                return;
            }
            if (answer !== null && this.show(answer)) {
                return;
            }
            this.schedule(this.pause);
        }

        // Shows an answer, and returns whether it was the last.
        show(answer) {
            const text = JSON.stringify(answer);
            this.pause = text === this.seen ? Math.min(LONGEST, this.pause * 1.5) : SHORTEST;
            this.seen = text;
            this.draw(answer);
            this.tell("stackstate:progress", answer);
            if (answer.finished) {
                this.stop();
                this.tell("stackstate:finished", answer);
            }
            return answer.finished;
        }

        draw(answer) {
            const bar = this.querySelector("progress");
            const progress = answer.progress || {};
            this.dataset.status = answer.status;
            if (answer.status === "SUCCESS") {
                bar.value = 100;
            } else if (typeof progress.percent === "number") {
                bar.value = progress.percent;
            } else if (answer.finished) {
                bar.value = 0;
            } else {
                bar.removeAttribute("value");
            }
            const parts = [];
            if (!answer.finished && typeof progress.percent === "number") {
                parts.push(progress.percent + " %");
            }
            if (!answer.finished && progress.message) {
                parts.push(progress.message);
            }
            this.say(WORDS[answer.status] || "unknown", parts.join(" · "));
        }

        say(word, instead) {
            const place = this.querySelector(".sse-text");
            const text = instead || this.dataset[word] || "";
            if (place && place.textContent !== text) {
                place.textContent = text;
            }
        }

        tell(name, answer) {
            this.dispatchEvent(new CustomEvent(name, { bubbles: true, detail: answer }));
        }
    }

    if (!customElements.get("stackstate-progress")) {
        customElements.define("stackstate-progress", StackStateProgress);
    }
})();
